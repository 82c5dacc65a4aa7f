"""Which image learns what from whom: ground truth (GT), tutor, both, or neither, task by task."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcli.common.errors import StudentError
from kdcli.student.config.schema import TargetsConfig, TaskTargets
from kdcli.student.data.targets import TERMS, ImageTargets, Targets

TASKS = ("detection", "segmentation")

Flags = npt.NDArray[np.bool_]


def tasks_learned(weights: npt.NDArray[np.floating]) -> Flags:
    """Mark the tasks that images learn, from whomever: weights (n, 4) by ``TERMS`` -> (n, 2)."""
    by_task = weights.reshape(len(weights), len(TASKS), 2)
    return np.asarray((by_task > 0).any(axis=2))


Weights = npt.NDArray[np.float64]


def assign_targets(
    image_ids: Sequence[str],
    boxes: Collection[str],
    masks: Collection[str],
    config: TargetsConfig,
    seed: int,
) -> Targets:
    """Return what each image learns from, in the order of ``image_ids``.

    A function of the settings, the seed and the image ids alone: an image keeps its teacher
    through the whole run, whatever batch it is in.

    Args:
        image_ids: The training list.
        boxes: Ids that have GT boxes in the devkit.
        masks: Ids that have a GT mask in the devkit.
        config: What each task learns from.
        seed: Of the run; draws the shares.

    Raises:
        StudentError: Images that should learn from GT have none (counted), or no image would
            learn anything.
    """
    kept = _seeded_share(image_ids, config.gt_share, seed, "gt")
    columns: list[Weights] = []
    for task, settings, present in (
        ("detection", config.detection, boxes),
        ("segmentation", config.segmentation, masks),
    ):
        usable = kept & _seeded_share(image_ids, settings.gt_share, seed, f"gt {task}")
        labelled = np.fromiter((name in present for name in image_ids), bool, len(image_ids))
        columns += _task_weights(
            image_ids, task, settings, labelled & usable, usable & ~labelled, seed
        )
    rows = Targets.of(image_ids, np.stack(columns, axis=1))
    if not rows.weights.any():
        raise StudentError(
            f"None of the {len(rows)} training images has a target: check targets.detection, "
            "targets.segmentation and targets.gt_share"
        )
    return rows


def on_this_visit(row: ImageTargets, config: TargetsConfig, visit: tuple[int, ...]) -> ImageTargets:
    """Return what the image learns from this time, with ``share_draw = "visit"``.

    The tutor replaces the GT with probability ``share``, drawn anew for every ``visit`` (the seed
    of that draw). With other settings, and where one of the two is missing, the row stays.
    """
    for task, settings in (("detection", config.detection), ("segmentation", config.segmentation)):
        if settings.source != "share" or settings.share_draw != "visit":
            continue
        gt, tutor = f"{task}_gt", f"{task}_tutor"
        if getattr(row, gt) and getattr(row, tutor):
            draw = np.random.default_rng([*visit, TASKS.index(task)]).random()
            spared: Any = {gt if draw < settings.share else tutor: 0.0}
            row = replace(row, **spared)
    return row


def to_csv(rows: Targets) -> str:
    """Return the assignment as CSV: image id, and one weight per task and teacher."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", *TERMS])
    writer.writerows([row.image_id, *(f"{weight:g}" for weight in row.weights)] for row in rows)
    return text.getvalue()


def counts(rows: Targets) -> dict[str, int]:
    """Return how many images learn each part, and how many learn nothing at all (``nothing``)."""
    learned = rows.weights > 0
    result = dict(zip(TERMS, learned.sum(axis=0).tolist(), strict=True))
    result["nothing"] = int((~learned.any(axis=1)).sum())
    return result


def required_roles(rows: Targets) -> frozenset[str]:
    """Return the tasks that some image learns from a tutor; a cache must hold these roles."""
    return frozenset(task for task in TASKS if rows.of_term(f"{task}_tutor").any())


def _task_weights(
    image_ids: Sequence[str],
    task: str,
    settings: TaskTargets,
    labelled: Flags,
    missing: Flags,
    seed: int,
) -> tuple[Weights, Weights]:
    """Return the GT and the tutor weights (n,).

    ``labelled`` have usable GT; ``missing`` have none though nothing withholds it.
    """
    gt, tutor = _sides(image_ids, task, settings, labelled, seed)
    lacking = np.flatnonzero((gt > 0) & missing).tolist()
    if lacking and settings.missing_gt == "error":
        raise StudentError(
            f"{len(lacking)} of the {len(image_ids)} training images have no ground truth for "
            f"{task} though they should learn it from ground truth "
            f"(targets.{task}.source = {settings.source!r}), "
            f"{min(image_ids[i] for i in lacking)} for one. "
            f"Let a tutor label them with targets.{task}.source=fill-in, or leave them out of "
            f"this task with targets.{task}.missing_gt=skip"
        )
    return gt * labelled, tutor


def _sides(
    image_ids: Sequence[str], task: str, settings: TaskTargets, labelled: Flags, seed: int
) -> tuple[Weights, Weights]:
    """Return what each image is to learn from GT and from the tutor, (n,) both."""
    count = len(image_ids)
    if settings.source == "combination":
        return np.full(count, settings.gt_weight), np.full(count, settings.tutor_weight)
    if settings.source == "share" and settings.share_draw == "visit":
        # Both are prepared for; `on_this_visit` takes one of them away.
        return np.full(count, float(settings.share < 1)), np.full(count, float(settings.share > 0))
    if settings.source == "fill-in":
        from_tutor = ~labelled
    elif settings.source == "share":
        from_tutor = _seeded_share(image_ids, settings.share, seed, f"share {task}")
    else:
        from_tutor = np.full(count, settings.source == "tutor")
    return (~from_tutor).astype(np.float64), from_tutor.astype(np.float64)


def _seeded_share(image_ids: Sequence[str], share: float, seed: int, purpose: str) -> Flags:
    """Mark the first ``share`` of the ids in the order of a hash of seed, purpose and id, (n,).

    A larger share of the same images contains the smaller one.
    """
    count = round(share * len(image_ids))
    if count == len(image_ids):
        return np.ones(count, bool)  # as a rule: nothing to hash
    hashes = b"".join(
        hashlib.sha256(f"{seed}/{purpose}/{image_id}".encode()).digest()[:8]
        for image_id in image_ids
    )
    chosen = np.zeros(len(image_ids), bool)
    chosen[np.argsort(np.frombuffer(hashes, ">u8"))[:count]] = True
    return chosen
