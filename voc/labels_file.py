"""``labels.toml``: a data set's own labels as a file.

names = ["mug", "plate"]            # ids 1, 2, ...; background is 0

[colours]                           # optional: red, green, blue, or "#rrggbb"
mug = [230, 40, 40]

[map]                               # optional: what a teacher calls a label, many to one
mug = ["cup", "wine glass"]
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path
from typing import Any

from kdcli.common.errors import DevkitError
from kdcli.common.files import write_text
from kdcli.common.names import nearest_names
from kdcli.voc.labels import Colour, LabelSet

LABELS_FILE = "labels.toml"
_SECTIONS = ("names", "colours", "map")


def read_labels(path: Path | str) -> LabelSet:
    """Read a file of labels.

    Raises:
        DevkitError: it is missing, no TOML in UTF-8, has unknown keys, or values that make no
            `LabelSet`; the message names the file.
    """
    path = Path(path)
    try:
        return parse_labels(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DevkitError(f"Cannot read the labels {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DevkitError(f"The labels {path} are not UTF-8: {error}.") from error
    except DevkitError as error:
        raise DevkitError(f"{path}: {error}") from error


def parse_labels(text: str) -> LabelSet:
    """Return the labels that the text of a file states.

    Raises:
        DevkitError: as `read_labels`, without the file's name.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DevkitError(f"it is not TOML: {error}.") from error
    for key in table:
        if key not in _SECTIONS:
            near = nearest_names(key, _SECTIONS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_SECTIONS)}."
            raise DevkitError(f"Unknown key {key!r}; {hint}")
    names = table.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DevkitError(f'Expected names = ["...", ...], a list of class names, got {names!r}.')
    colours = {name: _colour(name, value) for name, value in _section(table, "colours").items()}
    words = {name: _words(name, value) for name, value in _section(table, "map").items()}
    return LabelSet(tuple(names), colours, words)


def write_labels(path: Path | str, labels: LabelSet) -> None:
    """Write a file that `read_labels` reads back as equal labels.

    Raises:
        ResourceError: it cannot be written.
    """
    write_text(Path(path), format_labels(labels))


def format_labels(labels: LabelSet) -> str:
    """Return the text of a file of labels."""
    lines = ["names = [", *(f"    {_quoted(name)}," for name in labels.names), "]"]
    if labels.colours:
        colours = labels.colours.items()
        lines += ["", "[colours]", *(f"{_quoted(name)} = {list(rgb)}" for name, rgb in colours)]
    if labels.words:
        lines += ["", "[map]"]
        for name, words in labels.words.items():
            lines.append(f"{_quoted(name)} = [{', '.join(map(_quoted, words))}]")
    return "\n".join(lines) + "\n"


def _section(table: dict[str, Any], key: str) -> dict[str, Any]:
    section = table.get(key, {})
    if not isinstance(section, dict):
        raise DevkitError(f"Expected [{key}] to be a table with a line for a label, got {section}.")
    return section


def _colour(name: str, value: Any) -> Colour:
    if isinstance(value, str) and value.startswith("#") and len(value) == 7:
        with contextlib.suppress(ValueError):
            value = list(bytes.fromhex(value[1:]))
    if not isinstance(value, list) or len(value) != 3 or {type(part) for part in value} != {int}:
        raise DevkitError(
            f'[colours]: expected [red, green, blue] or "#rrggbb" for {name!r}, got {value!r}.'
        )
    red, green, blue = value
    return red, green, blue


def _words(name: str, value: Any) -> tuple[str, ...]:
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words or not all(isinstance(each, str) for each in words):
        raise DevkitError(
            f"[map]: expected a list of a teacher's words for {name!r}, got {value!r}."
        )
    return tuple(words)


def _quoted(text: str) -> str:
    """Return a TOML basic string; a JSON string is one, but for DEL, which no name holds."""
    return json.dumps(text, ensure_ascii=False)
