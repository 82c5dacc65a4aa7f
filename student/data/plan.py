"""What a run will do, worked out and checked before its first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcli.cache.checks import check_fits
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.assignment import (
    assign_targets,
    counts,
    tasks_learned,
    taught_by_tutor,
    to_csv,
)
from kdcli.student.data.photographs import check_photographs
from kdcli.student.data.targets import Targets
from kdcli.student.tasks.registry import tasks_of
from kdcli.voc.devkit import Devkit, mask_folder


@dataclass(frozen=True)
class Plan:
    """The data of a run.

    Attributes:
        rows: What each image of the list learns from.
        learning: The rows of the images that learn something; only these are drawn.
        mask_folder: Folder of the class masks.
        facts: What identifies the run beside its configuration, as JSON values.
    """

    rows: Targets
    learning: Targets
    mask_folder: str
    facts: dict[str, Any]

    @property
    def every_task(self) -> bool:
        """Whether each of these images learns every task, from whomever."""
        return bool(tasks_learned(self.learning.weights).all())

    @property
    def targets_csv(self) -> str:
        """The assignment as CSV."""
        return to_csv(self.rows)


def make_plan(config: RunConfig, devkit: Devkit, cache: TutorCache | None) -> Plan:
    """Assign the targets of the training list, and check that all of them can be had.

    Raises:
        StudentError: Ground truth or the cache is missing.
        CacheError: The cache does not fit the images.
        DevkitError: The list is missing or names images that are.
    """
    ids = devkit.image_ids(config.data.list)
    folder = class_masks(config, config.data.list)
    if config.data.mask_folder and not (devkit.root / folder).is_dir():
        raise StudentError(
            f"Found no folder {devkit.root / folder}: data.mask_folder names one of class masks"
        )
    present = devkit.availability(ids, folder)
    tasks = tasks_of(config.model)
    labelled = {task.name: task.labelled(present) for task in tasks}
    rows = assign_targets(ids, labelled, config.targets, config.seed)
    taught = taught_by_tutor(rows)
    by_tutor = [task for task in tasks if task.name in taught]
    roles = frozenset(role for task in by_tutor for role in task.roles(config.targets))
    if roles and cache is None:
        raise StudentError(
            f"The {' and '.join(sorted(roles))} targets ask for a tutor, but no cache is given: "
            "give the cache that generate-tutors wrote, or set targets.*.source to gt"
        )
    if roles and cache is not None:
        images = rows.ids(rows.by_tutor)
        check_fits(cache, images, roles=roles, class_names=devkit.labels.all_names)
        check_photographs(devkit, cache, images)
        for task in by_tutor:
            task.check(config, cache)
    facts = {
        "list": config.data.list,
        "images": len(ids),
        "counts": counts(rows),
        # Without a tutor's target the cache plays no part, and may be another on resuming.
        "cache": cache.fingerprint if roles and cache is not None else None,
    }
    for task in by_tutor:
        facts |= config.targets.of(task.name).facts
    learning = np.flatnonzero(rows.weights.any(axis=1))
    return Plan(rows, rows.take(learning), folder, facts)


def class_masks(config: RunConfig, list_name: str) -> str:
    """Return the folder of a list's class masks; of the training list the one that is set."""
    own = config.data.mask_folder if list_name == config.data.list else ""
    return own or mask_folder(list_name)
