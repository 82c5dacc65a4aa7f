"""Average precision of boxes, as the devkit defines it.

Definitions: Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective"
(IJCV 2015), and the development kits of 2007 (11-point average precision) and 2012 (area).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES
from kdcli.voc.metrics.frequent import LEAST_OBJECTS, frequent_classes, mean_over
from kdcli.voc.metrics.measure import Measure

Metric = Literal["area", "11point"]
Verdicts = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Of the detections of an image: which are right, and which count."""


class OfObjects:
    """A result over classes of which objects were counted."""

    objects: dict[str, int]

    @property
    def frequent_classes(self) -> tuple[str, ...]:
        """The classes with many objects; see `voc.metrics.frequent`."""
        return frequent_classes(self.objects)

    @property
    def frequent(self) -> tuple[str, ...]:
        """The same: see `Result`."""
        return self.frequent_classes


@dataclass(frozen=True)
class DetectionResult(OfObjects):
    """Average precision per class and what it was computed from; keys are class names.

    Attributes:
        average_precision: 0..1; nan for classes without an object that counts.
        objects: objects that count, that is, that are not difficult.
        difficult: objects that are ignored.
        detections: boxes that the detector returned.
        images: how many images were evaluated.
        iou_threshold: overlap above which a box finds an object.
        metric: how precision over recall became one number.
    """

    measure: ClassVar[Measure] = Measure(
        "detection", "map", "mAP", per_class="average_precision", column="AP %", amount="objects"
    )

    average_precision: dict[str, float]
    objects: dict[str, int]
    difficult: dict[str, int]
    detections: dict[str, int]
    images: int
    iou_threshold: float
    metric: Metric

    @property
    def map(self) -> float:
        """Mean over the classes that occur; nan if none does."""
        return mean_over(self.average_precision, self.average_precision)

    @property
    def map_frequent(self) -> float:
        """Mean over the frequent classes; nan if there is none."""
        return mean_over(self.average_precision, self.frequent_classes)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None stands for what is not defined."""
        return {
            "map": number(self.map),
            "map_frequent": number(self.map_frequent),
            "frequent_classes": list(self.frequent_classes),
            "least_objects": LEAST_OBJECTS,
            "metric": self.metric,
            "iou_threshold": self.iou_threshold,
            "average_precision": {k: number(v) for k, v in self.average_precision.items()},
            "objects": self.objects,
        }


def number(value: float) -> float | None:
    """Return ``value``, or None for nan, which JSON lacks."""
    return None if np.isnan(value) else value


def percent(value: float | None) -> str:
    """Return a score as text in per cent, a dash where it is not defined."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def average_precision(
    recall: NDArray[np.float64], precision: NDArray[np.float64], metric: Metric = "area"
) -> float:
    """Return the average precision of a curve.

    Args:
        recall: (n,) rising, after the first, second, ... detection by falling confidence.
        precision: (n,) at the same places.
        metric: ``"area"``, the area under the curve made monotonous (VOC 2010 and later), or
            ``"11point"``, the mean of the highest precision at recall 0, 0.1, ..., 1 or beyond
            (VOC 2007).

    >>> recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    >>> round(average_precision(recall, precision), 4)
    0.8333
    >>> round(average_precision(recall, precision, "11point"), 4)
    0.8485
    """
    # From the right: the highest precision at this recall or any higher one.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "area":
        steps = np.diff(recall, prepend=0.0)
        return float((steps * best).sum())
    if metric != "11point":
        raise ValueError(f'Expected metric "area" or "11point", got {metric!r}.')
    first = np.searchsorted(recall, np.arange(0.0, 1.1, 0.1), side="left")
    return float(np.append(best, 0.0)[first].mean())


def evaluate_detections(
    predictions: Mapping[str, Detections],
    annotations: Mapping[str, Annotation],
    iou_threshold: float = 0.5,
    metric: Metric = "area",
    names: Sequence[str] = CLASSES,
) -> DetectionResult:
    """Return the average precision of a detector's boxes.

    By falling confidence, each box takes the object of its class and image that it overlaps most,
    if their intersection over union exceeds the threshold (exactly equal is not enough, as in the
    Python versions of the devkit). The first to take an object is right, later ones are wrong, and
    boxes that take a difficult object count neither way. Widths are the devkit's, of inclusive
    pixels: xmax - xmin + 1, which in this project's coordinates is x2 - x1. Boxes of equal
    confidence keep the order of ``predictions``.

    Args:
        predictions: by image id; an image left out has no detections.
        annotations: by image id, every image that is evaluated.
        iou_threshold: 0.5 for VOC.
        metric: see `average_precision`.
        names: of the classes by id, background first.

    Raises:
        ValueError: a prediction is for an image without annotation, has a label beyond the names,
            or its boxes, labels and scores differ in length.
    """
    strangers = predictions.keys() - annotations.keys()
    if strangers:
        raise ValueError(
            f"Expected predictions for annotated images, got {len(strangers)} others, "
            f"e.g. {min(strangers)!r}."
        )
    for detections in predictions.values():
        _check_labels(detections.labels, len(names))
    verdicts = [
        judge(detections, annotations[image_id], iou_threshold)
        for image_id, detections in predictions.items()
    ]
    truth = annotations.values()
    objects = count_objects(truth, names)
    return DetectionResult(
        average_precision=judged_precisions(predictions.values(), verdicts, objects, metric),
        objects=objects,
        difficult=_per_class((each.labels[each.difficult] for each in truth), names),
        detections=_per_class((each.labels for each in predictions.values()), names),
        images=len(annotations),
        iou_threshold=iou_threshold,
        metric=metric,
    )


def judged_precisions(
    said: Iterable[Detections],
    verdicts: Sequence[Verdicts],
    objects: Mapping[str, int],
    metric: Metric,
) -> dict[str, float]:
    """Return the average precision of each class from what `judge` says of every image.

    Args:
        said: of each image.
        verdicts: of each image's detections.
        objects: see `class_precisions`.
        metric: see `average_precision`.
    """
    none = np.zeros(0)
    labels, scores = zip((none, none), *((each.labels, each.scores) for each in said), strict=True)
    right, counts = zip((none, none), *verdicts, strict=True)
    counted = np.concatenate(counts) > 0
    return class_precisions(
        np.concatenate(labels)[counted], np.concatenate(scores)[counted],
        np.concatenate(right)[counted] > 0, objects, metric,
    )  # fmt: skip


def class_precisions(
    labels: NDArray[np.integer],
    scores: NDArray[np.floating],
    right: NDArray[np.bool_],
    objects: Mapping[str, int],
    metric: Metric = "area",
) -> dict[str, float]:
    """Return the average precision of each class, nan for those without objects.

    Args:
        labels: (n,) class ids from 1, of all detections that count.
        scores: (n,) confidences; of equal ones the first goes first.
        right: (n,) whether the detection is right.
        objects: by class name, in the order of the ids from 1, how many are to be found.
        metric: see `average_precision`.
    """
    values = {}
    for label, (name, wanted) in enumerate(objects.items(), start=1):
        chosen = np.flatnonzero(labels == label)
        order = chosen[np.argsort(-scores[chosen], kind="stable")]
        hits = np.cumsum(right[order])
        precision = hits / np.arange(1, len(order) + 1)
        recall = hits / max(wanted, 1)
        values[name] = average_precision(recall, precision, metric) if wanted else float("nan")
    return values


def count_objects(
    annotations: Iterable[Annotation], names: Sequence[str] = CLASSES
) -> dict[str, int]:
    """Return by class name how many objects count, that is, are not difficult."""
    return _per_class((each.labels[~each.difficult] for each in annotations), names)


def box_iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the (n, m) intersections over union of (n, 4) and (m, 4) boxes x1 y1 x2 y2."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.where(union > 0, union, 1.0), dtype=np.float64)


def judge(detections: Detections, annotation: Annotation, iou_threshold: float = 0.5) -> Verdicts:
    """Return for each detection of one image whether it is right and whether it counts.

    The rules are those of `evaluate_detections`. More confident boxes choose first, so leaving out
    boxes below a threshold changes nothing for the others.
    """
    n = len(detections)
    shapes = (detections.boxes.shape, detections.labels.shape, detections.scores.shape)
    if shapes != ((n, 4), (n,), (n,)):
        raise ValueError(
            f"Expected boxes ({n}, 4), labels ({n},), scores ({n},), got shapes {shapes}."
        )
    overlap = box_iou(detections.boxes, annotation.boxes)
    return judge_overlaps(detections, overlap, annotation, iou_threshold)


def judge_overlaps(
    detections: Detections,
    overlap: NDArray[np.float64],
    annotation: Annotation,
    iou_threshold: float,
) -> Verdicts:
    """Judge as `judge` does by the given overlaps (n, m) of n detections and m objects."""
    right = np.zeros(len(detections), dtype=np.bool_)
    counts = np.ones(len(detections), dtype=np.bool_)
    for label in np.intersect1d(detections.labels, annotation.labels):
        ours = np.flatnonzero(detections.labels == label)
        ours = ours[np.argsort(-detections.scores[ours], kind="stable")]
        theirs = np.flatnonzero(annotation.labels == label)
        among = overlap[np.ix_(ours, theirs)]
        best = among.argmax(axis=1)
        taken = among[np.arange(len(ours)), best] > iou_threshold
        ignored = taken & annotation.difficult[theirs[best]]
        counts[ours[ignored]] = False
        takers = np.flatnonzero(taken & ~ignored)
        _, first = np.unique(best[takers], return_index=True)
        right[ours[takers[first]]] = True
    return right, counts


def _check_labels(labels: NDArray[np.integer], classes: int) -> None:
    if len(labels) and not (labels.min() >= 1 and labels.max() < classes):
        raise ValueError(f"Expected labels 1..{classes - 1}, got {labels.min()} to {labels.max()}.")


def _per_class(labels: Iterable[NDArray[np.integer]], names: Sequence[str]) -> dict[str, int]:
    """Count labels 1.. by class name."""
    counts = np.zeros(len(names), dtype=np.int64)
    for each in labels:
        counts += np.bincount(each.astype(np.int64), minlength=len(names))
    return {name: int(counts[label]) for label, name in enumerate(names) if label}
