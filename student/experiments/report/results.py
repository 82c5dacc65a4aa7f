"""What a results folder holds, read back: recipes, cells, runs, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdcli.common.errors import StudentError
from kdcli.common.files import read_json
from kdcli.student.config.schema import RunConfig
from kdcli.student.evaluation.evaluate import evaluation_path
from kdcli.student.experiments.matrix import RUN, cell_folder
from kdcli.student.experiments.recipe import Cell, Recipe, over_all, parse_recipe, shipped
from kdcli.student.experiments.record import RECORDS
from kdcli.student.experiments.runner import FAILURE
from kdcli.student.runs.directory import CONFIG, METRICS, RECORD, recorded_config
from kdcli.voc.labels import BACKGROUND
from kdcli.voc.metrics import FREQUENT, MEASURES, frequent_classes, mean_over, number

BY_KEY = {measure.key: measure for measure in MEASURES}


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (n - 1; nan for one value) of ``n`` values."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat | None:
        """Return the statistic; None of nothing."""
        if not values:
            return None
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), sd, len(values))


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: Its folder below ``cells``: equal for cells that share it.
        seed: Its seed.
        folder: Where it lies, or would.
        evaluation: Its evaluation as saved; None if it is not finished.
        failure: Why it failed; empty if it did not.
    """

    name: str
    seed: int
    folder: Path
    evaluation: Mapping[str, Any] | None
    failure: str

    def score(self, metric: str) -> float | None:
        """Return one of `METRICS`, 0..1; None where there is none."""
        value = self._section(metric).get(metric)
        return None if value is None else float(value)

    def per_class(self, metric: str) -> dict[str, float]:
        """Return the metric of each class for which it is defined."""
        values = self._section(metric).get(BY_KEY[over_all(metric)].per_class, {})
        return {name: value for name, value in values.items() if value is not None}

    def classes(self, metric: str) -> tuple[str, ...] | None:
        """Return the classes that the mean is over; None where the evaluation does not tell."""
        section = self._section(metric)
        if metric != over_all(metric):
            names = section.get("frequent_classes")
            return None if names is None else tuple(names)
        counts = section.get(BY_KEY[metric].amount)
        return None if counts is None else tuple(name for name, count in counts.items() if count)

    @property
    def names(self) -> tuple[str, ...]:
        """All classes of its data set by id, background first; empty if it is not finished."""
        tables = (self._section(own.key).get(own.per_class, {}) for own in MEASURES)
        names: Mapping[str, Any] = next((table for table in tables if table), {})
        return tuple(dict.fromkeys((BACKGROUND, *names))) if names else ()

    @property
    def objects(self) -> Mapping[str, int]:
        """How many objects of each class it was evaluated on; empty if it does not tell."""
        tables = (self._section(own.key).get("objects", {}) for own in MEASURES)
        return dict(next((table for table in tables if table), {}))

    def _section(self, metric: str) -> dict[str, Any]:
        """The part of the evaluation that holds a metric; empty if there is none."""
        return dict((self.evaluation or {}).get(BY_KEY[over_all(metric)].section) or {})

    @property
    def config(self) -> RunConfig | None:
        """Its configuration; None if it never started."""
        run = self.folder / RUN
        return recorded_config(run) if (run / CONFIG).is_file() else None

    @property
    def record(self) -> dict[str, Any]:
        """What it recorded about its data and its starts; empty if it never started."""
        path = self.folder / RUN / RECORD
        return dict(read_json(path)) if path.is_file() else {}

    def curve(self) -> list[tuple[int, float]]:
        """Return its loss curve as (step, mean total loss since the line before)."""
        path = self.folder / RUN / METRICS
        if not path.is_file():
            return []
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@dataclass(frozen=True)
class CellResult:
    """A cell and its runs, by rising seed."""

    cell: Cell
    runs: tuple[Run, ...]

    def scores(self, metric: str) -> dict[int, float]:
        """Return the scores of the finished runs by seed."""
        found = {run.seed: run.score(metric) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def stat(self, metric: str) -> Stat | None:
        """Return mean and spread over the seeds."""
        return Stat.of(list(self.scores(metric).values()))

    def class_stat(self, metric: str) -> dict[str, Stat]:
        """Return mean and spread of each class that occurs, over the seeds."""
        tables = [run.per_class(metric) for run in self.runs]
        names = dict.fromkeys(name for table in tables for name in table)
        stats = {name: Stat.of([t[name] for t in tables if name in t]) for name in names}
        return {name: stat for name, stat in stats.items() if stat is not None}

    @property
    def missing(self) -> tuple[Run, ...]:
        """The runs that are not finished."""
        return tuple(run for run in self.runs if run.evaluation is None)


@dataclass(frozen=True)
class RecipeResult:
    """A recipe as it was run: ``record`` is what the results folder says about it."""

    recipe: Recipe
    record: Mapping[str, Any]
    cells: tuple[CellResult, ...]

    def cell(self, label: str) -> CellResult:
        """Return a cell by its label."""
        return next(cell for cell in self.cells if cell.cell.label == label)

    def effect(self, cell: CellResult, metric: str) -> Stat | None:
        """Return mean and spread of `differences`; None without any."""
        return Stat.of(self.differences(cell, metric))

    def differences(self, cell: CellResult, metric: str) -> list[float]:
        """Return the difference to the cell's baseline for each seed that both have."""
        if not cell.cell.baseline:
            return []
        base, own = self.cell(cell.cell.baseline).scores(metric), cell.scores(metric)
        return [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]

    def thesis(self, cell: CellResult, metric: str) -> float | None:
        """Return the thesis' number, None if it gives none.

        All classes of its list (VOC's Segmentation/val) are frequent: both means are one.
        """
        numbers = cell.cell.thesis
        return numbers.get(metric, numbers.get(over_all(metric)))

    def thesis_effect(self, cell: CellResult, metric: str) -> float | None:
        """Return the thesis' difference to the cell's baseline; None if it gives none."""
        if not cell.cell.baseline:
            return None
        base, own = self.thesis(self.cell(cell.cell.baseline), metric), self.thesis(cell, metric)
        return None if base is None or own is None else own - base

    def classes(self, metric: str) -> tuple[str, ...] | None:
        """Return the classes that the mean is over; None if no run tells."""
        told = (run.classes(metric) for run in self.runs)
        return next((names for names in told if names is not None), None)

    @property
    def frequent(self) -> tuple[str, ...] | None:
        """The classes with many objects, without the background; None if no run tells."""
        told = (self.classes(key + FREQUENT) for key in BY_KEY)
        names = next((names for names in told if names is not None), None)
        return names and tuple(name for name in names if name != BACKGROUND)

    @property
    def objects(self) -> Mapping[str, int]:
        """How many objects of each class the list holds; empty if no run tells."""
        return next((run.objects for run in self.runs if run.objects), {})

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of its runs."""
        return tuple(run for cell in self.cells for run in cell.runs)


def load_results(out: Path) -> list[RecipeResult]:
    """Return every recipe of a results folder, the shipped ones first.

    Raises:
        StudentError: The folder holds none, or what it holds cannot be read.
    """
    files = sorted((out / RECORDS).glob("*.json"))
    if not files:
        raise StudentError(
            f"Found no results in {out}: expected {out / RECORDS} with what run-recipe wrote"
        )
    order = {name: place for place, name in enumerate(shipped())}
    files.sort(key=lambda path: (order.get(path.stem, len(order)), path.stem))
    return [_load(out, path) for path in files]


def _load(out: Path, path: Path) -> RecipeResult:
    record = read_json(path)
    recipe = parse_recipe(record["recipe"], f"the recipe in {path}")
    cells = tuple(
        CellResult(cell, tuple(
            _load_run(out, name, int(seed), record["evaluated_on"])
            for seed, name in sorted(record["cells"][cell.label].items(), key=lambda x: int(x[0]))
        ))
        for cell in recipe.cells
    )  # fmt: skip
    return RecipeResult(recipe, record, cells)


def _load_run(out: Path, name: str, seed: int, list_name: str) -> Run:
    folder = cell_folder(out, name)
    evaluation, failure = evaluation_path(folder / RUN, list_name), folder / FAILURE
    return Run(
        name,
        seed,
        folder,
        completed(read_json(evaluation)) if evaluation.is_file() else None,
        failure.read_text(encoding="utf-8").strip() if failure.is_file() else "",
    )


def completed(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an evaluation with what earlier versions left out: the means over frequent classes."""
    sections = {each: own for each in MEASURES if (own := evaluation.get(each.section))}
    objects = next((own["objects"] for own in sections.values() if "objects" in own), None)
    if objects is None or any("frequent_classes" in own for own in sections.values()):
        return evaluation
    completed = dict(evaluation)
    for measure, own in sections.items():
        values, names = own[measure.per_class], frequent_classes(objects)
        if names and BACKGROUND in values:
            names = (BACKGROUND, *names)
        mean = {measure.key + FREQUENT: number(mean_over(values, names))}
        completed[measure.section] = {**own, **mean, "frequent_classes": names}
    return completed
