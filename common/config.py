"""Configurations: frozen dataclasses, read from TOML and ``a.b=value`` settings, and written back.

A file may start from a preset (``preset = "tiny"`` at its top). Unknown keys are errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kdcli.common.errors import ConfigError

T = TypeVar("T")
C = TypeVar("C")
Table = dict[str, Any]
Changes = Mapping[str, Any] | Iterable[str | Mapping[str, Any]]
"""Settings to change: tables, nested or by dotted key (``{"optim.lr": 2e-4}``), and, from the
command line, strings (``optim.lr=2e-4``: the value is TOML, or else taken as a string)."""


def flatten(config: object) -> dict[str, Any]:
    """Return every setting by its dotted key, in the order of the dataclasses."""
    flat: dict[str, Any] = {}

    def visit(value: Any, key: str) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                visit(getattr(value, field.name), f"{key}.{field.name}" if key else field.name)
        else:
            flat[key] = value

    visit(config, "")
    return flat


def to_toml(config: object) -> str:
    """Return the configuration, complete and resolved, as TOML that reads back."""
    sections: dict[str, list[str]] = {}
    for key, value in flatten(config).items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name} = {_toml_value(value)}")
    parts = [
        "\n".join(([f"[{section}]"] if section else []) + lines)
        for section, lines in sections.items()
    ]
    return "\n\n".join(parts) + "\n"


def changed(config: C, changes: Changes) -> C:
    """Return a configuration with settings changed.

    Raises:
        ConfigError: As `build`.
    """
    table = apply(changes, _as_table(config))
    return build(type(config), table, "the configuration")


def _as_table(config: object) -> Table:
    fields = dataclasses.fields(typing.cast(Any, config))
    values = {field.name: getattr(config, field.name) for field in fields}
    return {
        name: _as_table(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
    }


def as_settings(table: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """Return nested tables as settings ``a.b=value``.

    >>> as_settings({"optim": {"lr": 0.1}, "seed": 2})
    ('optim.lr=0.1', 'seed=2')
    """
    lines: list[str] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += as_settings(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={_toml_value(value)}")
    return tuple(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a valid TOML basic string but for DEL, which no setting holds.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def read_toml(path: Path) -> Table:
    """Return the content of a configuration file.

    Raises:
        ConfigError: It cannot be read, is not UTF-8, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors mark UTF-8
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The configuration {path} is not UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The configuration {path} is not TOML: {error}") from error


def apply(changes: Changes, table: Mapping[str, Any]) -> Table:
    """Return the table with settings changed, later ones over earlier ones."""
    result = dict(table)
    for change in [changes] if isinstance(changes, Mapping) else changes:
        nested = parse_setting(change) if isinstance(change, str) else _nested(change)
        result = merge(result, nested)
    return result


def expect(condition: bool, setting: str, expected: str, got: object) -> None:
    """Refuse a value that is out of place; for the ``__post_init__`` of configurations.

    Raises:
        ConfigError: The condition does not hold.
    """
    if not condition:
        raise ConfigError(f"Expected {setting} to be {expected}, got {got}")


def by_keyword(settings: Mapping[str, Any]) -> Table:
    """Return settings that were given as keywords (``optim__lr=2e-4``) by their dotted keys."""
    return {name.replace("__", "."): value for name, value in settings.items()}


def parse_setting(setting: str) -> Table:
    """Return ``a.b=value`` as a nested table.

    Raises:
        ConfigError: It is no such setting.
    """
    key, separator, text = setting.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not separator or not all(names):
        raise ConfigError(f"Expected a setting like optim.lr=2e-4, got {setting!r}")
    return _nested({".".join(names): _parse_value(text.strip())})


def _nested(table: Mapping[str, Any]) -> Table:
    result: Table = {}
    for key, value in table.items():
        inner: Any = _nested(value) if isinstance(value, Mapping) else value
        for name in reversed(key.split(".")):
            inner = {name: inner}
        result = merge(result, inner)
    return result


def _parse_value(text: str) -> Any:
    """Return the TOML value that ``text`` is; else a number such as .2, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        try:
            return float(text)
        except ValueError:
            return text


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """Return nested tables laid over others."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        # A table that names a preset replaces the whole: nothing of the first one stays.
        both = isinstance(value, Mapping) and isinstance(below, Mapping) and "preset" not in value
        merged[key] = merge(typing.cast(Table, below), value) if both else value
    return merged


def build(kind: type[T], table: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """Return the dataclass that a parsed table holds; ``where`` names the source in errors.

    Raises:
        ConfigError: An unknown key, or a value of another type than the field's.
    """
    hints = typing.get_type_hints(kind)
    names = tuple(field.name for field in dataclasses.fields(typing.cast(Any, kind)))
    for name in table:
        if name not in names:
            raise ConfigError(
                f"Unknown key {prefix}{name} in {where}{nearest(name, names, prefix)}"
            )
    values = {
        name: _convert(value, hints[name], prefix + name, where) for name, value in table.items()
    }
    return kind(**values)


def _convert(value: Any, hint: Any, key: str, where: str) -> Any:
    """Return ``value`` as the type ``hint`` asks for, or as one of several."""
    for one in _alternatives(hint):
        with contextlib.suppress(ConfigError):
            return _convert_one(value, one, key, where)
    return _convert_one(value, hint, key, where)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types of which ``hint`` allows any; none if it is a single one."""
    unions = (typing.Union, types.UnionType)
    return typing.get_args(hint) if typing.get_origin(hint) in unions else ()


def _convert_one(value: Any, hint: Any, key: str, where: str) -> Any:
    """Return ``value`` as the type ``hint`` asks for; TOML's arrays become tuples."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where, f"{key}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        converted = _convert_tuple(value, arguments, key, where)
        if converted is not None:
            return converted
    elif origin is typing.Literal:
        if value in arguments:
            return value
    elif hint is float and type(value) in (int, float):
        if math.isfinite(value):
            return float(value)
    elif hint is str and isinstance(value, Path):
        return str(value)
    elif type(value) is hint:
        return value
    raise ConfigError(f"Expected {key} in {where} to be {_describe(hint)}, got {value!r}")


def _convert_tuple(value: Any, hints: tuple[Any, ...], key: str, where: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        return None
    return tuple(_convert(item, hint, key, where) for item, hint in zip(value, hints, strict=True))


def _describe(hint: Any) -> str:
    if several := _alternatives(hint):
        return ", or ".join(map(_describe, several))
    if typing.get_origin(hint) is typing.Literal:
        values = typing.get_args(hint)
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    if typing.get_origin(hint) is tuple:
        arguments = typing.get_args(hint)
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {count}{_describe(arguments[0]).removeprefix('a ')}s"
    if dataclasses.is_dataclass(hint):
        return "a section"
    names: dict[Any, str] = {
        bool: "true or false", int: "a whole number", float: "a number", str: "a string",
    }  # fmt: skip
    return names.get(hint, str(hint))


def nearest(name: str, names: Sequence[str], prefix: str = "") -> str:
    """Return the end of an error message: the known name nearest to ``name``, or all of them."""
    match = difflib.get_close_matches(name, names, n=1)
    if match:
        return f"; did you mean {prefix}{match[0]}?"
    return f"; known here: {', '.join(names)}" if prefix else ""
