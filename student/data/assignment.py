"""Which image learns what from whom: ground truth (GT), tutor, both, or neither, task by task."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from kdcli.common.errors import StudentError
from kdcli.student.config.schema import TargetsConfig, TaskTargets

TASKS = ("detection", "segmentation")


@dataclass(frozen=True)
class ImageTargets:
    """The weights of one image's losses; 0 where it does not learn from that side.

    ``TERMS`` names the weights in the order of a batch's table.
    """

    image_id: str
    detection_gt: float = 0.0
    detection_tutor: float = 0.0
    segmentation_gt: float = 0.0
    segmentation_tutor: float = 0.0

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (
            self.detection_gt,
            self.detection_tutor,
            self.segmentation_gt,
            self.segmentation_tutor,
        )


TERMS: tuple[str, ...] = tuple(field.name for field in fields(ImageTargets)[1:])


def assign_targets(
    image_ids: Sequence[str],
    boxes: Collection[str],
    masks: Collection[str],
    config: TargetsConfig,
    seed: int,
) -> tuple[ImageTargets, ...]:
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
    weights = {}
    for task, settings, present in (
        ("detection", config.detection, boxes),
        ("segmentation", config.segmentation, masks),
    ):
        own = _seeded_share(image_ids, settings.gt_share, seed, f"gt {task}")
        labelled = {image_id for image_id in image_ids if image_id in present}
        weights[task] = _task_weights(
            image_ids, task, settings, labelled & kept & own, (kept & own) - labelled, seed
        )
    rows = tuple(
        ImageTargets(image_id, *weights["detection"][image_id], *weights["segmentation"][image_id])
        for image_id in image_ids
    )
    if not any(sum(row.weights) for row in rows):
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


def to_csv(rows: Sequence[ImageTargets]) -> str:
    """Return the assignment as CSV: image id, and one weight per task and teacher."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", *TERMS])
    writer.writerows([row.image_id, *(f"{weight:g}" for weight in row.weights)] for row in rows)
    return text.getvalue()


def counts(rows: Sequence[ImageTargets]) -> dict[str, int]:
    """Return how many images learn each part, and how many learn nothing at all (``nothing``)."""
    result = {part: sum(getattr(row, part) > 0 for row in rows) for part in TERMS}
    result["nothing"] = sum(not any(row.weights) for row in rows)
    return result


def required_roles(rows: Sequence[ImageTargets]) -> frozenset[str]:
    """Return the tasks that some image learns from a tutor; a cache must hold these roles."""
    return frozenset(task for task in TASKS if any(getattr(row, f"{task}_tutor") for row in rows))


def _task_weights(
    image_ids: Sequence[str],
    task: str,
    settings: TaskTargets,
    labelled: Collection[str],
    missing: Collection[str],
    seed: int,
) -> dict[str, tuple[float, float]]:
    """Return (GT weight, tutor weight) by image id.

    ``labelled`` have usable GT; ``missing`` have none though nothing withholds it.
    """
    replaced = _seeded_share(image_ids, settings.share, seed, f"share {task}")
    weights: dict[str, tuple[float, float]] = {}
    wanted = set()  # images that are to learn from GT
    for image_id in image_ids:
        gt, tutor = 1.0, 0.0
        if settings.source == "combination":
            gt, tutor = settings.gt_weight, settings.tutor_weight
        elif settings.source == "share" and settings.share_draw == "visit":
            # Both are prepared for; `on_this_visit` takes one of them away.
            gt, tutor = float(settings.share < 1), float(settings.share > 0)
        elif (
            settings.source == "tutor"
            or (settings.source == "fill-in" and image_id not in labelled)
            or (settings.source == "share" and image_id in replaced)
        ):
            gt, tutor = 0.0, 1.0
        if gt > 0:
            wanted.add(image_id)
        weights[image_id] = (gt if image_id in labelled else 0.0, tutor)
    lacking = wanted & set(missing)
    if lacking and settings.missing_gt == "error":
        raise StudentError(
            f"{len(lacking)} of the {len(image_ids)} training images have no ground truth for "
            f"{task} though they should learn it from ground truth "
            f"(targets.{task}.source = {settings.source!r}), {sorted(lacking)[0]} for one. "
            f"Let a tutor label them with targets.{task}.source=fill-in, or leave them out of "
            f"this task with targets.{task}.missing_gt=skip"
        )
    return weights


def _seeded_share(image_ids: Sequence[str], share: float, seed: int, purpose: str) -> set[str]:
    """Return the first ``share`` of the ids in the order of a hash of seed, purpose and id.

    A larger share of the same images contains the smaller one.
    """

    def rank(image_id: str) -> bytes:
        return hashlib.sha256(f"{seed}/{purpose}/{image_id}".encode()).digest()

    return set(sorted(image_ids, key=rank)[: round(share * len(image_ids))])
