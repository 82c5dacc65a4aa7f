"""From recipes to training runs: which there are, and where in a results folder they lie.

A results folder holds

    recipes/<name>.json          a recipe as it was run: its text, its runs, its data
    cells/<digest>/seed-<n>/     one training run, shared by all recipes that ask for it
        run/                     what ``train`` writes, and the evaluation
        samples/                 predictions of a few images
        failure.txt              why it failed, if it did
    samples/                     the ground truth of those few images
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.format.fingerprint import canonical_json
from kdcli.cache.reader import TutorCache
from kdcli.common.config import Changes, flatten
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import FIRST_DEFAULTS, TASK_NAMES, TaskTargets
from kdcli.student.config.toml import run_config
from kdcli.student.data.plan import class_masks
from kdcli.student.experiments.recipe import Cell, Recipe
from kdcli.student.tasks.registry import tasks_of
from kdcli.voc.classes import VOC
from kdcli.voc.devkit import Devkit

CELLS = "cells"
RUN = "run"
_HEX = 16
_OF_GT = ("gt_share", "missing_gt")
"""Settings of a task that count without a tutor, too."""
_OF_TASKS = ("targets", "optim.asynchronous")
"""Where settings of a task are, which play no part in a run without it."""


@dataclass(frozen=True)
class Scale:
    """At which size a recipe is run.

    Attributes:
        config: A TOML file or a preset in the place of the recipe's own scale; None for that.
        overrides: What all cells change beside that; a cell's own settings have the last word.
    """

    config: Path | str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        digest: Identifies its settings, data and tutors, apart from the seed.
        config: Its resolved configuration.
        title: Recipe, cell and seed that first asked for it.
    """

    digest: str
    config: RunConfig
    title: str

    @property
    def name(self) -> str:
        """Its folder below ``cells``."""
        return f"{self.digest}/seed-{self.config.seed}"


class Matrix:
    """All runs of some recipes at one scale, on one devkit and cache.

    Equal cells of different recipes are one run.

    Args:
        devkit: Photographs and ground truth.
        cache: What the tutors said; None if nothing is learned from them.
        scale: The size.
    """

    def __init__(self, devkit: Devkit, cache: TutorCache | None, scale: Scale) -> None:
        self.devkit = devkit
        self.cache = cache
        self.scale = scale
        self._lists: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def job(self, recipe: Recipe, cell: Cell, seed: int) -> Job:
        """Return the run of one cell with one seed.

        Raises:
            StudentError: Its settings are no configuration.
            DevkitError: Its training list does not exist.
        """
        config = self.config(recipe, cell, seed)
        identity: dict[str, Any] = {
            "settings": changed_settings(config),
            "images": self._list_digest(config),
            "cache": self.cache.fingerprint if self.cache and taught_by_tutors(config) else None,
        }
        if self.devkit.labels.names != VOC.names:
            identity["labels"] = list(self.devkit.labels.names)
        for targets in taught_by_tutors(config):
            identity |= targets.facts
        digest = hashlib.sha256(canonical_json(identity)).hexdigest()[:_HEX]
        return Job(digest, config, f"{recipe.name}: {cell.label}, seed {seed}")

    def jobs(self, recipe: Recipe, cells: Sequence[Cell], seeds: Sequence[int]) -> list[Job]:
        """Return the runs of some cells, seed by seed, so that a first answer is there early."""
        return [self.job(recipe, cell, seed) for seed in seeds for cell in cells]

    def config(self, recipe: Recipe, cell: Cell | None, seed: int) -> RunConfig:
        """Return the resolved configuration of a cell; without one, what all cells share."""
        source: Path | str = recipe.preset
        budget: Mapping[str, Any] = recipe.budget
        if self.scale.config is not None:
            source, budget = self.scale.config, {}
        own: Mapping[str, Any] = {} if cell is None else cell.settings
        changes: Changes = [budget, recipe.settings, *self.scale.overrides, own, {"seed": seed}]
        return run_config(source, changes).of_classes(self.devkit.labels.size)

    def _list_digest(self, config: RunConfig) -> str:
        """SHA-256 of the training list's ids, and of which have boxes, masks, and what else."""
        name, tasks = config.data.list, config.model.tasks
        folder = class_masks(config, name)
        if (name, folder, tasks) not in self._lists:
            ids = self.devkit.image_ids(name)
            known = self.devkit.availability(ids, folder)
            # Boxes and masks whatever the tasks: so it was when there were no other tasks.
            usual = [known.boxes, known.masks]
            found = [task.labelled(known) for task in tasks_of(config.model)]
            # By one rule, so that two states of a folder never say the same: what goes without
            # saying is that a third task has the images with masks.
            others = [each for each in found if each is not known.boxes and each != known.masks]
            content = [list(ids), *map(sorted, usual + others)]
            self._lists[name, folder, tasks] = hashlib.sha256(canonical_json(content)).hexdigest()
        return self._lists[name, folder, tasks]


def distinct(jobs: Sequence[Job]) -> list[Job]:
    """Return the runs without those that occurred before."""
    return list({job.name: job for job in reversed(jobs)}.values())[::-1]


def taught_by_tutors(config: RunConfig) -> list[TaskTargets]:
    """Return the targets of those of the network's tasks whose source involves a tutor."""
    targets = map(config.targets.of, config.model.tasks)
    return [each for each in targets if each.learns_from_tutor]


def below_the_floor(jobs: Sequence[Job], floor: float) -> list[Job]:
    """Return the runs that ask for boxes less sure than ``floor``, the least that a store holds."""
    return [
        job
        for job in jobs
        if any(each.least_box_score < floor for each in taught_by_tutors(job.config))
    ]


def changed_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that are not the defaults and change what is learned, without the seed.

    Only these: a setting that a later version adds leaves the identity of earlier runs alone, as
    does a default that it changes (what was the first default is left out for ever), and what
    becomes of a tutor's word plays no part where a task has none. Nor does the machine: what
    ``auto`` means there is no setting, and ``optim.bf16=false`` is what earlier runs' default was.
    """
    default = {**flatten(RunConfig()), **FIRST_DEFAULTS}
    absent = [task for task in TASK_NAMES if task not in config.model.tasks]
    untaught = [task for task in TASK_NAMES if not config.targets.of(task).learns_from_tutor]
    without = tuple(f"targets.{task}." for task in untaught)
    nowhere = tuple(f"{place}.{task}" for task in absent for place in _OF_TASKS)
    return {
        key: value
        for key, value in flatten(config).items()
        if value != default[key]
        and not key.startswith("runtime.")
        and key != "seed"
        and not (key == "optim.bf16" and value is False)
        and not (key.startswith(without) and key.rpartition(".")[2] not in _OF_GT)
        and not key.startswith(nowhere)
    }


def cell_folder(out: Path, name: str) -> Path:
    """Return the folder of a run by its ``Job.name``."""
    return out / CELLS / name
