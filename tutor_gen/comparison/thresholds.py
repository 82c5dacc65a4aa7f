"""Which confidence boxes and label vectors are best cut at, by what sweeps say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from kdcli.cache.format.vectors import THRESHOLD
from kdcli.tutor_gen.comparison.said import Thresholds
from kdcli.tutor_gen.quality.calibration import ThresholdScore, VectorThresholdScore
from kdcli.tutor_gen.quality.evaluate import TutorEvaluation
from kdcli.voc.labels import BACKGROUND
from kdcli.voc.metrics import mean_over

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds among which the best are looked for."""


def chosen_thresholds(evaluation: TutorEvaluation, frequent: Sequence[str]) -> Thresholds:
    """Return the best thresholds; `THRESHOLD` where nothing tells."""
    boxes, vectors = best_boxes(evaluation), best_vectors(evaluation, frequent)
    values = (None if best is None else best.threshold for best in (boxes, vectors))
    return Thresholds(*(THRESHOLD if value is None else value for value in values))


def best_boxes(evaluation: TutorEvaluation) -> ThresholdScore | None:
    """Return the boxes from the threshold with the highest F1, all classes together.

    Mean average precision does not tell: doubtful boxes come last in its order and cost nothing.
    F1 asks of a threshold to lose as little of what is there as it adds of what is not.
    """
    known = [score for score in evaluation.thresholds if not math.isnan(score.f1)]
    return max(known, key=lambda score: score.f1, default=None)


def best_vectors(
    evaluation: TutorEvaluation, frequent: Sequence[str]
) -> VectorThresholdScore | None:
    """Return the label vectors from the threshold with the highest `deciding_miou`."""
    known = [score for score in evaluation.vector_thresholds if not math.isnan(score.miou)]
    return max(known, key=lambda s: deciding_miou(s, evaluation, frequent), default=None)


def deciding_miou(
    score: VectorThresholdScore, evaluation: TutorEvaluation, frequent: Sequence[str]
) -> float:
    """Return the mIoU over background and the frequent classes; over all where none is frequent.

    Where all classes are frequent, as in VOC 2012's Segmentation/val, that is the plain mIoU;
    elsewhere a few rare objects would decide between thresholds.
    """
    names = with_background(evaluation, frequent)
    return mean_over(score.iou, names) if names else score.miou


def with_background(evaluation: TutorEvaluation, frequent: Iterable[str]) -> tuple[str, ...]:
    """Return the frequent classes that the masks show, and before them the background."""
    found = evaluation.segmentation
    present = () if found is None else tuple(n for n in frequent if found.pixels[n])
    return (BACKGROUND, *present) if present else ()
