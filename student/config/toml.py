"""Read a ``RunConfig`` from TOML and ``a.b=value`` overrides, and write it back.

A file may start from a preset (``preset = "tiny"`` at its top) and a model from a named
architecture (``preset = "blitznet300"`` in ``[model]``). Unknown keys are errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.model.config import PRESETS as MODELS
from kdcli.student.model.config import ModelConfig

T = TypeVar("T")

SEGMENTATION_TARGETS: Mapping[str, tuple[str, ...]] = {
    name: tuple(f"targets.segmentation.{setting}" for setting in settings)
    for name, settings in {
        "thesis": ("form=softmax", "temperature=0.4", "confidence_weighting=false"),
        "background": ("form=background", "confidence_weighting=false"),
        "weighted": ("form=hard", "confidence_weighting=true"),
    }.items()
}
"""Overrides by name; docs/segmentation_study.md compares them."""
Table = dict[str, Any]


def presets() -> tuple[str, ...]:
    """Return the names of the run configurations that ship with the package."""
    folder = resources.files(__package__) / "presets"
    names = (item.name for item in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_config(source: Path | str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a TOML file or a preset, with overrides (``optim.lr=2e-4``).

    Args:
        source: A file, or the name of a preset (see ``presets``); None for the defaults.
        overrides: ``section.key=value``; the value is TOML, or else taken as a string.

    Raises:
        StudentError: No such file or preset, not TOML, an unknown key, or a value out of place.
    """
    table: Table = {}
    if source is not None:
        table = _read(source)
    for override in overrides:
        table = _merge(table, _parse_override(override))
    if table.get("preset"):
        base = _read_preset(str(table.pop("preset")))
        table = _merge(base, table)
    where = f"the configuration {source}" if source is not None else "the configuration"
    return config_from_table(table, where)


def config_from_table(table: Mapping[str, Any], where: str) -> RunConfig:
    """Return the configuration that a parsed TOML table holds; ``where`` names it in errors."""
    table = dict(table)
    model = table.get("model", {})
    if isinstance(model, Mapping) and "preset" in model:
        table["model"] = _expand_model(dict(model), where)
    return _build(RunConfig, table, "", where)


def flatten(config: RunConfig) -> dict[str, Any]:
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


def to_toml(config: RunConfig) -> str:
    """Return the configuration, complete and resolved, as TOML that ``load_config`` reads back."""
    sections: dict[str, list[str]] = {}
    for key, value in flatten(config).items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name} = {_toml_value(value)}")
    parts = [
        "\n".join(([f"[{section}]"] if section else []) + lines)
        for section, lines in sections.items()
    ]
    return "\n\n".join(parts) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A JSON string is a valid TOML basic string but for DEL, which no setting holds.
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return repr(value)


def _read(source: Path | str) -> Table:
    path = Path(source)
    if not path.is_file():
        if str(source) in presets():
            return _read_preset(str(source))
        raise StudentError(
            f"Found no configuration {source}: no such file, and the presets are "
            f"{', '.join(presets())}{_nearest(str(source), presets())}"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors mark UTF-8
    except OSError as error:
        raise StudentError(f"Cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StudentError(f"The configuration {path} is not UTF-8: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise StudentError(f"The configuration {path} is not TOML: {error}") from error


def _read_preset(name: str) -> Table:
    if name not in presets():
        raise StudentError(
            f"Found no preset {name!r}; there are {', '.join(presets())}{_nearest(name, presets())}"
        )
    text = (resources.files(__package__) / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _parse_override(override: str) -> Table:
    key, separator, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not separator or not all(names):
        raise StudentError(f"Expected a setting like optim.lr=2e-4, got {override!r}")
    table: Any = _parse_value(text.strip())
    for name in reversed(names):
        table = {name: table}
    return typing.cast(Table, table)


def _parse_value(text: str) -> Any:
    """Return the TOML value that ``text`` is; else a number such as .2, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        try:
            return float(text)
        except ValueError:
            return text


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            if key == "model" and "preset" in value:
                merged[key] = dict(value)  # another architecture: nothing of the first one stays
            else:
                merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _expand_model(model: Table, where: str) -> Table:
    name = str(model.pop("preset"))
    if name not in MODELS:
        raise StudentError(
            f"Expected model.preset in {where} to be one of {', '.join(MODELS)}, got {name!r}"
            f"{_nearest(name, tuple(MODELS))}"
        )
    chosen: ModelConfig = MODELS[name]
    return {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)} | model


def _build(kind: type[T], table: Mapping[str, Any], prefix: str, where: str) -> T:
    hints = typing.get_type_hints(kind)
    names = tuple(field.name for field in dataclasses.fields(typing.cast(Any, kind)))
    for name in table:
        if name not in names:
            raise StudentError(
                f"Unknown key {prefix}{name} in {where}{_nearest(name, names, prefix)}"
            )
    values = {
        name: _convert(value, hints[name], prefix + name, where) for name, value in table.items()
    }
    return kind(**values)


def _convert(value: Any, hint: Any, key: str, where: str) -> Any:
    """Return ``value`` as the type ``hint`` asks for; TOML's arrays become tuples."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return _build(hint, value, f"{key}.", where)
    elif origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
    elif origin is tuple:
        converted = _convert_tuple(value, typing.get_args(hint), key, where)
        if converted is not None:
            return converted
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise StudentError(f"Expected {key} in {where} to be {_describe(hint)}, got {value!r}")


def _convert_tuple(value: Any, hints: tuple[Any, ...], key: str, where: str) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        return None
    return tuple(_convert(item, hint, key, where) for item, hint in zip(value, hints, strict=True))


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
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


def _nearest(name: str, names: Sequence[str], prefix: str = "") -> str:
    """Return the end of an error message: the known name nearest to ``name``, or all of them."""
    match = difflib.get_close_matches(name, names, n=1)
    if match:
        return f"; did you mean {prefix}{match[0]}?"
    return f"; known here: {', '.join(names)}" if prefix else ""
