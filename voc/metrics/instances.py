"""Average precision of instance masks: VOC's AP^r, and COCO's.

AP^r is the devkit's average precision with the intersection over union of regions in place of
boxes' (Hariharan et al., "Simultaneous Detection and Segmentation", ECCV 2014, arXiv 1407.1808),
at .5 and .7. COCO's mask AP is pycocotools' own: the mean over the thresholds .50, .55, ... .95,
precision read at 101 recalls, at most 100 masks of a class and image.

Void pixels belong to nobody: they are taken out of what is said before it is compared. Objects
without mask are not looked for, difficult ones count neither way (crowds, to COCO). The paper's
annotations have neither void nor difficult objects.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES
from kdcli.voc.labels import VOID
from kdcli.voc.metrics.detection import (
    Metric,
    OfObjects,
    count_objects,
    judge_overlaps,
    judged_precisions,
    number,
    percent,
)
from kdcli.voc.metrics.frequent import LEAST_OBJECTS, mean_over
from kdcli.voc.metrics.measure import Measure

if TYPE_CHECKING:
    from kdcli.voc.instances import InstanceTruth

THRESHOLDS = (0.5, 0.7)
"""Of AP^r, the two that the paper reports."""
COCO = {"coco_map": 0, "coco_map_50": 1, "coco_map_75": 2}
"""Which of the numbers of COCO's summary are kept, and what they are called."""

Runs = dict[str, Any]
"""A mask as COCO's run lengths."""


@dataclass(frozen=True)
class InstanceResult(OfObjects):
    """Average precision of masks; keys are class names.

    Attributes:
        average_precision: AP^r at .5, 0..1; nan for classes without an object that counts.
        average_precision_70: the same at .7.
        objects: objects that count: with a mask, and not difficult.
        unmatched: objects of the object masks that no box stands for; void here.
        images: how many images were evaluated.
        coco: COCO's mask AP, and at .50 and .75 alone, by the names of `COCO`; nan without objects.
        metric: how precision over recall became one number of AP^r.
    """

    measure: ClassVar[Measure] = Measure(
        "instances", "map_r", "mAP^r", per_class="average_precision", column="AP^r %",
        amount="objects",
    )  # fmt: skip

    average_precision: dict[str, float]
    average_precision_70: dict[str, float]
    objects: dict[str, int]
    unmatched: int
    images: int
    coco: dict[str, float]
    metric: Metric

    @property
    def map_r(self) -> float:
        """Mean of AP^r at .5 over the classes that occur; nan if none does."""
        return mean_over(self.average_precision, self.average_precision)

    @property
    def map_r_70(self) -> float:
        """The same at .7."""
        return mean_over(self.average_precision_70, self.average_precision_70)

    @property
    def map_r_frequent(self) -> float:
        """Mean of AP^r at .5 over the frequent classes; nan if there is none."""
        return mean_over(self.average_precision, self.frequent_classes)

    @property
    def note(self) -> str:
        """What stands in no column: stricter measures, and what was left out."""
        coco, at_50, at_75 = map(percent, self.coco.values())
        text = (
            f"Masks: AP^r at IoU .5; at .7 the mean is {percent(self.map_r_70)} %; "
            f"COCO's AP {coco} % (.50: {at_50}, .75: {at_75})."
        )
        lost = f" {self.unmatched} objects of the object masks have no box: void."
        return text + lost * bool(self.unmatched)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None stands for what is not defined."""
        return {
            "map_r": number(self.map_r),
            "map_r_frequent": number(self.map_r_frequent),
            "map_r_70": number(self.map_r_70),
            **{name: number(value) for name, value in self.coco.items()},
            "frequent_classes": list(self.frequent_classes),
            "least_objects": LEAST_OBJECTS,
            "metric": self.metric,
            "average_precision": {k: number(v) for k, v in self.average_precision.items()},
            "average_precision_70": {k: number(v) for k, v in self.average_precision_70.items()},
            "objects": self.objects,
            "unmatched": self.unmatched,
            "images": self.images,
        }


@dataclass(frozen=True, eq=False)
class Compared:
    """One image: what was said, what is true, both without void pixels.

    Attributes:
        said: detections.
        runs: their masks.
        true: the objects that have a mask.
        true_runs: their masks.
        unmatched: objects that no box stands for.
    """

    said: Detections
    runs: list[Runs]
    true: Annotation
    true_runs: list[Runs]
    unmatched: int

    def overlap(self) -> NDArray[np.float64]:
        """Return intersections over union of the regions, (n, m)."""
        from pycocotools import mask as pycoco

        if not self.runs or not self.true_runs:
            return np.zeros((len(self.runs), len(self.true_runs)))
        plain = [0] * len(self.true_runs)  # no crowds, whose IoU is another
        return np.asarray(pycoco.iou(self.runs, self.true_runs, plain), dtype=np.float64)


def compare(said: Detections, masks: Iterable[NDArray[np.bool_]], truth: InstanceTruth) -> Compared:
    """Prepare one image for `evaluate_instances`; what is returned takes little memory.

    Args:
        said: n detections; their boxes play no part.
        masks: (H, W) bool each, of the n detections, taken one at a time.
        truth: of the image.

    Raises:
        ValueError: there are more or fewer masks than detections, or one is of another size.
    """
    rows = truth.objects.rows
    known = rows != VOID
    runs = [_encode(mask, known) for mask in masks]
    if len(runs) != len(said):
        raise ValueError(f"Expected a mask for each of {len(said)} detections, got {len(runs)}.")
    present = truth.objects.has_mask(len(truth.annotation.labels))
    true_runs = [_encode(rows == row + 1, known) for row in np.flatnonzero(present)]
    true = replace(
        truth.annotation,
        boxes=truth.annotation.boxes[present],
        labels=truth.annotation.labels[present],
        difficult=truth.annotation.difficult[present],
        truncated=truth.annotation.truncated[present],
    )
    return Compared(said, runs, true, true_runs, truth.objects.unmatched)


def _encode(mask: NDArray[np.bool_], known: NDArray[np.bool_]) -> Runs:
    from pycocotools import mask as pycoco

    if mask.shape != known.shape:
        raise ValueError(f"Expected masks of {known.shape} pixels, got {mask.shape}.")
    runs: Runs = pycoco.encode(np.asfortranarray((mask & known).view(np.uint8)))
    return runs


def evaluate_instances(
    images: Sequence[Compared], names: Sequence[str] = CLASSES, metric: Metric = "area"
) -> InstanceResult:
    """Return the average precision of masks; the rules are those of `evaluate_detections`.

    Args:
        images: every image that is evaluated, one where nothing was said, too; masks of equal
            confidence keep their order.
        names: of the classes by id, background first.
        metric: of AP^r, see `average_precision`.
    """
    overlaps = [image.overlap() for image in images]
    objects = count_objects((image.true for image in images), names)
    values = []
    for threshold in THRESHOLDS:
        verdicts = [
            judge_overlaps(image.said, overlap, image.true, threshold)
            for image, overlap in zip(images, overlaps, strict=True)
        ]
        said = (image.said for image in images)
        values.append(judged_precisions(said, verdicts, objects, metric))
    return InstanceResult(
        average_precision=values[0],
        average_precision_70=values[1],
        objects=objects,
        unmatched=sum(image.unmatched for image in images),
        images=len(images),
        coco=coco_mask_ap(images, names),
        metric=metric,
    )


def coco_mask_ap(images: Sequence[Compared], names: Sequence[str]) -> dict[str, float]:
    """Return COCO's mask AP by pycocotools, by the names of `COCO`; nan without objects."""
    from pycocotools import coco, cocoeval

    truths = list(_coco_annotations((image.true_runs, image.true) for image in images))
    said = list(_coco_annotations((image.runs, image.said) for image in images))
    if all(each["iscrowd"] for each in truths):
        return dict.fromkeys(COCO, float("nan"))
    sizes = [
        {"id": n, "height": image.true.height, "width": image.true.width}
        for n, image in enumerate(images, start=1)
    ]
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
        for annotations in (truths, said):
            side = coco.COCO()
            side.dataset = {
                "images": sizes,
                "categories": [{"id": n} for n in range(1, len(names))],
                "annotations": annotations,
            }
            side.createIndex()
            sides.append(side)
        scored = cocoeval.COCOeval(*sides, "segm")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return {name: float(scored.stats[place]) for name, place in COCO.items()}


def _coco_annotations(
    images: Iterable[tuple[list[Runs], Annotation | Detections]],
) -> Iterable[dict[str, Any]]:
    """Yield what COCO calls annotations and results; numbers of images go from 1."""
    from pycocotools import mask as pycoco

    ids = itertools.count(1)
    for image, (runs, things) in enumerate(images, start=1):
        for row, each in enumerate(runs):
            yield {
                "id": next(ids),
                "image_id": image,
                "category_id": int(things.labels[row]),
                "segmentation": each,
                "area": float(pycoco.area(each)),
                "iscrowd": int(isinstance(things, Annotation) and things.difficult[row]),
                "score": float(things.scores[row]) if isinstance(things, Detections) else 1.0,
            }
