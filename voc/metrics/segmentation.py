"""Intersection over union of masks, as the devkit defines it.

Definition: Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective"
(IJCV 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kdcli.voc.classes import CLASSES
from kdcli.voc.labels import BACKGROUND, VOID
from kdcli.voc.metrics.detection import number
from kdcli.voc.metrics.frequent import LEAST_OBJECTS, mean_over
from kdcli.voc.metrics.measure import Measure


@dataclass(frozen=True)
class SegmentationResult:
    """Intersection over union per class; keys are class names, background included.

    Attributes:
        iou: 0..1; 0 for classes that are predicted but absent from the target, nan for those absent
            from both.
        pixels: target pixels of each class, void left out.
        pixel_accuracy: share of those pixels with the right class; nan without any.
        frequent: classes with many objects in the list, without the background. Pixels do not tell
            how many objects there are: boxes do, and without boxes no class is frequent.
    """

    measure: ClassVar[Measure] = Measure(
        "segmentation", "miou", "mIoU", per_class="iou", column="IoU %", amount="pixels"
    )

    iou: dict[str, float]
    pixels: dict[str, int]
    pixel_accuracy: float
    frequent: tuple[str, ...] = ()

    @property
    def miou(self) -> float:
        """Mean over the classes present in the target (21 on VOC); nan if there is none."""
        return mean_over(self.iou, (name for name, count in self.pixels.items() if count))

    @property
    def frequent_classes(self) -> tuple[str, ...]:
        """The frequent classes that are present in the target, and before them the background."""
        present = tuple(name for name in self.frequent if self.pixels[name])
        return (BACKGROUND, *present) if present else ()

    @property
    def miou_frequent(self) -> float:
        """Mean over `frequent_classes`; nan if no class is frequent."""
        return mean_over(self.iou, self.frequent_classes)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None stands for what is not defined."""
        return {
            "miou": number(self.miou),
            "miou_frequent": number(self.miou_frequent),
            "frequent_classes": list(self.frequent_classes),
            "least_objects": LEAST_OBJECTS,
            "pixel_accuracy": number(self.pixel_accuracy),
            "iou": {name: number(value) for name, value in self.iou.items()},
            "pixels": self.pixels,
        }


class ConfusionMatrix:
    """Counts pixels by true and predicted class, image after image.

    Args:
        names: of the K classes by id, background first.

    Attributes:
        counts: (K, K) int64, rows are the target's classes, columns the predicted ones.

    >>> matrix = ConfusionMatrix()
    >>> matrix.update(np.array([[0, 8, 8]]), np.array([[0, 8, 255]]))
    >>> matrix.result().miou
    1.0
    """

    def __init__(self, names: Sequence[str] = CLASSES) -> None:
        self._names = tuple(names)
        self.counts: NDArray[np.int64] = np.zeros((len(names), len(names)), dtype=np.int64)

    def update(self, prediction: NDArray[np.integer], target: NDArray[np.integer]) -> None:
        """Count one image.

        Args:
            prediction: (H, W) class ids 0..K - 1.
            target: (H, W) class ids 0..K - 1; pixels that are `VOID` are left out.

        Raises:
            ValueError: the shapes differ, or a pixel that counts holds something else.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"Expected a prediction of the target's shape {target.shape}, "
                f"got {prediction.shape}."
            )
        known, classes = target != VOID, len(self._names)
        true, said = target[known].astype(np.int64), prediction[known].astype(np.int64)
        for name, values in (("target", true), ("prediction", said)):
            if values.size and not (values.min() >= 0 and values.max() < classes):
                raise ValueError(
                    f"Expected class ids 0..{classes - 1} in the {name}, "
                    f"got {values.min()} to {values.max()}."
                )
        cells = np.bincount(true * classes + said, minlength=classes**2)
        self.counts += cells.reshape(classes, classes)

    def result(self, frequent: tuple[str, ...] = ()) -> SegmentationResult:
        """Return intersection over union of everything counted so far."""
        return intersection_over_union(self.counts, frequent, self._names)


def intersection_over_union(
    counts: NDArray[np.int64],
    frequent: tuple[str, ...] = (),
    names: Sequence[str] = CLASSES,
) -> SegmentationResult:
    """Return the devkit's measure: true positives / (true + false positives + false negatives).

    Args:
        counts: (K, K) pixels by target class (rows) and predicted class (columns).
        frequent: classes with many objects, see `voc.metrics.frequent`.
        names: of the K classes by id, background first.
    """
    iou, target, total = class_iou(counts), counts.sum(axis=1), int(counts.sum())
    return SegmentationResult(
        iou={name: float(value) for name, value in zip(names, iou, strict=True)},
        pixels={name: int(value) for name, value in zip(names, target, strict=True)},
        pixel_accuracy=float(np.trace(counts) / total) if total else float("nan"),
        frequent=frequent,
    )


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the intersection over union of each class, (K,) of counts (K, K); nan where absent."""
    shared = np.diagonal(counts).astype(np.float64)
    union = counts.sum(axis=1) + counts.sum(axis=0) - shared
    iou = np.full(len(shared), np.nan)
    np.divide(shared, union, out=iou, where=union > 0)
    return iou
