"""Which image learns what from whom: ground truth (GT), tutor, both, or neither, task by task."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdcli.common.errors import StudentError
from kdcli.student.config.tasks import TASK_NAMES, TargetsConfig, TaskTargets
from kdcli.student.data.targets import TEACHERS, ImageTargets, Targets, terms_of

Flags = npt.NDArray[np.bool_]


def tasks_learned(weights: npt.NDArray[np.floating]) -> Flags:
    """Mark the tasks that images learn, from whomever: weights (n, T) by term -> (n, tasks)."""
    by_task = weights.reshape(len(weights), -1, len(TEACHERS))
    return np.asarray((by_task > 0).any(axis=2))


Weights = npt.NDArray[np.float64]


def assign_targets(
    image_ids: Sequence[str],
    labelled: Mapping[str, Collection[str]],
    config: TargetsConfig,
    seed: int,
) -> Targets:
    """Return what each image learns from, in the order of ``image_ids``.

    A function of the settings, the seed and the image ids alone: an image keeps its teacher
    through the whole run, whatever batch it is in.

    Args:
        image_ids: The training list.
        labelled: By task, the ids that have its GT in the devkit.
        config: What each task learns from.
        seed: Of the run; draws the shares.

    Raises:
        StudentError: Images that should learn from GT have none (counted), or no image would
            learn anything.
    """
    kept = _seeded_share(image_ids, config.gt_share, seed, "gt")
    columns: list[Weights] = []
    for task, present in labelled.items():
        settings = config.of(task)
        usable = kept & _seeded_share(image_ids, settings.gt_share, seed, f"gt {task}")
        has = np.fromiter((name in present for name in image_ids), bool, len(image_ids))
        columns += _task_weights(image_ids, task, settings, has & usable, usable & ~has, seed)
    rows = Targets.of(image_ids, np.stack(columns, axis=1), terms_of(labelled))
    if not rows.weights.any():
        raise StudentError(
            f"None of the {len(rows)} training images has a target: check "
            f"{', '.join(f'targets.{task}' for task in labelled)} and targets.gt_share"
        )
    return rows


def on_this_visit(row: ImageTargets, config: TargetsConfig, visit: tuple[int, ...]) -> ImageTargets:
    """Return what the image learns from this time, with ``share_draw = "visit"``.

    The tutor replaces the GT with probability ``share``, drawn anew for every ``visit`` (the seed
    of that draw). With other settings, and where one of the two is missing, the row stays.
    """
    for place, task in enumerate(TASK_NAMES):
        settings = config.of(task)
        if settings.source != "share" or settings.share_draw != "visit":
            continue
        gt, tutor = terms_of([task])
        if row.of(gt) and row.of(tutor):
            draw = np.random.default_rng([*visit, place]).random()
            spared = gt if draw < settings.share else tutor
            row = replace(row, weights={**row.weights, spared: 0.0})
    return row


def to_csv(rows: Targets) -> str:
    """Return the assignment as CSV: image id, and one weight per task and teacher."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image_id", *rows.terms])
    writer.writerows(
        [row.image_id, *(f"{weight:g}" for weight in row.weights.values())] for row in rows
    )
    return text.getvalue()


def counts(rows: Targets) -> dict[str, int]:
    """Return how many images learn each part, and how many learn nothing at all (``nothing``)."""
    learned = rows.weights > 0
    result = dict(zip(rows.terms, learned.sum(axis=0).tolist(), strict=True))
    result["nothing"] = int((~learned.any(axis=1)).sum())
    return result


def taught_by_tutor(rows: Targets) -> frozenset[str]:
    """Return the tasks that some image learns from a tutor."""
    taught = (term for term in rows.terms if rows.of_term(term).any())
    return frozenset(term.removesuffix("_tutor") for term in taught if term.endswith("_tutor"))


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
