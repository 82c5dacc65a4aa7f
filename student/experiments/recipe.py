"""A recipe: an experiment of the thesis, or one's own, as a small TOML file.

    name = "table-12"                   # also the name of its file in a results folder
    title = "Table 12: ..."
    explanation = "One line"
    source = "thesis, table 12"
    metrics = ["map", "miou", "miou_frequent"]  # what it is about
    claim = ["map", "miou_frequent"]    # those that what it says rests on
    axis = "temperature"                # figures only: what the cells' x is
    seeds = [1, 2, 3]

    [scale]                             # what --config replaces: the network and its budget
    preset = "blitznet300-x4"
    optim.steps = 65000

    [settings]                          # of every cell
    targets.segmentation.form = "softmax"

    [[cells]]
    label = "GT only"
    thesis = { map = 0.626, miou = 0.602 }

    [[cells]]
    label = "segmentation tutor"
    baseline = "GT only"                # the cell that the report compares it with
    settings.targets.segmentation.source = "tutor"

Settings are those of ``train-student --set``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from kdcli.common.errors import StudentError
from kdcli.voc.metrics import FREQUENT, MEASURES

METRICS = {
    measure.key + ending: measure.label + ending.replace("_", " ")
    for measure in MEASURES
    for ending in ("", FREQUENT)
}
"""The metrics a recipe may be about, and what they are called: means over all classes that occur,
and over those with many objects (`voc.metrics.frequent`)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MISSING = object()


@dataclass(frozen=True)
class Cell:
    """One training run of a recipe, apart from its seed.

    Attributes:
        label: Names it within the recipe.
        settings: What it changes, as ``run_config`` takes it.
        thesis: The thesis' numbers, 0..1, by metric; empty if there are none.
        baseline: Label of the cell to compare it with; empty for none.
        x: Of a figure, the place on its axis.
    """

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    thesis: Mapping[str, float] = field(default_factory=dict)
    baseline: str = ""
    x: float | None = None


@dataclass(frozen=True)
class Recipe:
    """An experiment: cells, and the settings they share.

    Attributes:
        name: One word, by which it is asked for.
        title: Its headline.
        explanation: What it is about, in one line.
        source: Where the thesis' numbers are from.
        metrics: The metrics it is about, among `METRICS`.
        claim: Those of them that what it says rests on; empty if it does not say.
        axis: Of a figure, what the cells' ``x`` is; empty for a table.
        note: What a reader has to know; may be empty.
        seeds: Of the runs of each cell, unless others are asked for.
        preset: The preset that the runs start from.
        budget: What the recipe's own scale changes in the preset.
        settings: What all cells change.
        cells: In the order of the table or figure.
        text: The file it was read from, word for word.
    """

    name: str
    title: str
    explanation: str
    source: str
    metrics: tuple[str, ...]
    claim: tuple[str, ...]
    axis: str
    note: str
    seeds: tuple[int, ...]
    preset: str
    budget: Mapping[str, Any]
    settings: Mapping[str, Any]
    cells: tuple[Cell, ...]
    text: str = field(repr=False)

    def cell(self, label: str) -> Cell:
        """Return the cell of that label.

        Raises:
            StudentError: There is none.
        """
        for cell in self.cells:
            if cell.label == label:
                return cell
        labels = [cell.label for cell in self.cells]
        raise StudentError(
            f"Found no cell {label!r} in the recipe {self.name}; it has {', '.join(labels)}"
        )


def over_all(metric: str) -> str:
    """Return the metric of that kind that is the mean over all classes: itself, or its sister.

    >>> over_all("miou_frequent")
    'miou'
    """
    return metric.removesuffix(FREQUENT)


def shipped() -> tuple[str, ...]:
    """Return the names of the recipes that ship: the thesis' tables and figures, then our own."""
    names = (item.name for item in (resources.files(__package__) / "recipes").iterdir())
    found = [name.removesuffix(".toml") for name in names if name.endswith(".toml")]
    return tuple(sorted(found, key=in_order))


def in_order(name: str) -> tuple[int, str]:
    """Return what to sort recipes by: the thesis' tables, its figures, all others by name."""
    kinds = ("table-", "figure-")
    places = (place for place, kind in enumerate(kinds) if name.startswith(kind))
    return next(places, len(kinds)), name


def load_recipe(source: Path | str) -> Recipe:
    """Return a recipe by its file, or by its name if it ships with the project.

    Raises:
        StudentError: There is none, or it is not as recipes are; the message says where.
    """
    path = Path(source)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise StudentError(f"Cannot read the recipe {path}: {error}") from error
        return parse_recipe(text, f"the recipe {path}")
    if str(source) not in shipped():
        close = difflib.get_close_matches(str(source), shipped(), n=1)
        raise StudentError(
            f"Found no recipe {source}: no such file, and the shipped ones are "
            + ", ".join(shipped())
            + (f"; did you mean {close[0]}?" if close else "")
        )
    file = resources.files(__package__) / "recipes" / f"{source}.toml"
    return parse_recipe(file.read_text(encoding="utf-8"), f"the recipe {source}")


def parse_recipe(text: str, where: str) -> Recipe:
    """Return the recipe that a TOML text holds; ``where`` names it in errors."""
    try:
        table = _Table(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise StudentError(f"{where} is not TOML: {error}") from error
    scale = _Table(table.take("scale", dict, {}), f"[scale] of {where}")
    recipe = Recipe(
        name=table.take("name", str),
        title=table.take("title", str),
        explanation=table.take("explanation", str),
        source=table.take("source", str, ""),
        metrics=tuple(table.take("metrics", list, ["map", "miou"])),
        claim=tuple(table.take("claim", list, [])),
        axis=table.take("axis", str, ""),
        note=table.take("note", str, ""),
        seeds=tuple(table.take("seeds", list, [1, 2, 3])),
        preset=scale.take("preset", str, "blitznet300-x4"),
        budget=dict(scale.rest),
        settings=table.take("settings", dict, {}),
        cells=tuple(
            _cell(_Table(cell, f"cell {number} of {where}"))
            for number, cell in enumerate(table.take("cells", list), start=1)
        ),
        text=text,
    )
    table.finish()
    _check(recipe, where)
    return recipe


class _Table:
    """A TOML table whose keys are taken out one by one; what is left over is an error."""

    def __init__(self, table: object, where: str) -> None:
        if not isinstance(table, dict):
            raise StudentError(f"Expected {where} to be a table, got {table!r}")
        self.rest: dict[str, Any] = dict(table)
        self.where = where

    def take(self, key: str, kind: type, default: object = _MISSING) -> Any:
        value = self.rest.pop(key, default)
        if value is _MISSING:
            raise StudentError(f"{self.where} lacks {key}")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if value is not default and not isinstance(value, kind):
            raise StudentError(f"Expected {key} in {self.where} to be a {kind.__name__}, "
                               f"got {value!r}")  # fmt: skip
        return value

    def finish(self) -> None:
        if self.rest:
            raise StudentError(f"Unknown key {next(iter(self.rest))} in {self.where}")


def _cell(table: _Table) -> Cell:
    thesis = _Table(table.take("thesis", dict, {}), f"thesis in {table.where}")
    cell = Cell(
        label=table.take("label", str),
        settings=table.take("settings", dict, {}),
        thesis={name: thesis.take(name, float) for name in METRICS if name in thesis.rest},
        baseline=table.take("baseline", str, ""),
        x=table.take("x", float, None),
    )
    thesis.finish()
    table.finish()
    return cell


def _check(recipe: Recipe, where: str) -> None:
    labels = [cell.label for cell in recipe.cells]
    checks: Sequence[tuple[bool, str]] = (
        (bool(_NAME.fullmatch(recipe.name)), "a name of letters, digits, dots and dashes"),
        (bool(labels), "at least one cell"),
        (len(set(labels)) == len(labels), "cells with different labels"),
        (all(cell.baseline in (*labels, "") for cell in recipe.cells),
         "baselines that are labels of cells"),
        (bool(recipe.metrics) and set(recipe.metrics) <= set(METRICS),
         f"metrics among {', '.join(METRICS)}"),
        (set(recipe.claim) <= set(recipe.metrics), "a claim on some of its metrics"),
        (bool(recipe.seeds) and all(type(s) is int and s >= 0 for s in recipe.seeds),
         "seeds that are whole numbers from 0"),
        (not recipe.axis or all(cell.x is not None for cell in recipe.cells),
         "an x in every cell, as it has an axis"),
    )  # fmt: skip
    for fine, expected in checks:
        if not fine:
            raise StudentError(f"Expected {where} to have {expected}")
