"""How far two sources say the same: the boxes of one that the other has, pixels of one class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.comparison.said import Said
from kdcli.tutor_gen.quality.compare import counterparts
from kdcli.voc.classes import VOC
from kdcli.voc.labels import VOID
from kdcli.voc.metrics import class_iou


@dataclass(frozen=True, eq=False)
class Agreement:
    """Two sources, over one image or many.

    Attributes:
        boxes: boxes of the first and of the second.
        matched: pairs of boxes, one of each, of one class and with an IoU of .5 or more; each box
            in one pair at most, those that overlap most first.
        pixels: (K, K) int64, pixels by the first's class (rows) and the second's (columns).
    """

    boxes: tuple[int, int]
    matched: int
    pixels: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int = VOC.size) -> Self:
        """Return that of no image, of so many classes with the background."""
        return cls((0, 0), 0, np.zeros((classes, classes), dtype=np.int64))

    def plus(self, other: Agreement) -> Agreement:
        """Both together."""
        first, second = (a + b for a, b in zip(self.boxes, other.boxes, strict=True))
        return Agreement((first, second), self.matched + other.matched, self.pixels + other.pixels)

    @property
    def shares(self) -> tuple[float, float]:
        """The shares of the first's and of the second's boxes that are matched; nan without any."""
        first, second = (self.matched / n if n else float("nan") for n in self.boxes)
        return first, second

    @property
    def unmatched(self) -> int:
        """Boxes of either that have no counterpart."""
        return sum(self.boxes) - 2 * self.matched

    @property
    def same_class(self) -> float:
        """The share of the pixels of one class in both; nan without pixels."""
        total = int(self.pixels.sum())
        return float(np.trace(self.pixels) / total) if total else float("nan")

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that either says; nan without pixels."""
        iou = class_iou(self.pixels)
        known = iou[~np.isnan(iou)]
        return float(known.mean()) if len(known) else float("nan")


def agreement(first: Said, second: Said, classes: int = VOC.size) -> Agreement:
    """Compare what two sources say of an image; what one of them does not speak of is left out."""
    boxes, matched, pixels = (0, 0), 0, np.zeros((classes, classes), dtype=np.int64)
    if first.boxes is not None and second.boxes is not None:
        boxes = len(first.boxes), len(second.boxes)
        matched = sum(1 for _ in counterparts(first.boxes, second.boxes))
    if first.class_map is not None and second.class_map is not None:
        pixels = _joint(first.class_map, second.class_map, classes)
    return Agreement(boxes, matched, pixels)


def _joint(
    first: NDArray[np.integer], second: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    known = (first != VOID) & (second != VOID)
    cells = first[known].astype(np.int64) * classes + second[known]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ImageDifference:
    """How much the sources differ over one image, all pairs of them together.

    Attributes:
        image_id: which image.
        boxes: how many, those of each pair counted.
        unmatched: those of them without a counterpart.
        pixels: the share of the pixels of another class; 0 without pixels.
    """

    image_id: str
    boxes: int
    unmatched: int
    pixels: float

    @property
    def unmatched_share(self) -> float:
        """The share of the boxes without a counterpart; 0 without boxes."""
        return self.unmatched / self.boxes if self.boxes else 0.0


def image_difference(image_id: str, pairs: Iterable[Agreement]) -> ImageDifference:
    """Put the pairs of one image together, at least one."""
    total = reduce(Agreement.plus, pairs)
    pixels = int(total.pixels.sum())
    other = 1 - total.same_class if pixels else 0.0
    return ImageDifference(image_id, sum(total.boxes), total.unmatched, other)


def most_different(
    differences: Sequence[ImageDifference], images: int
) -> tuple[ImageDifference, ...]:
    """Choose images where label vectors differ most, and then as many where boxes do.

    Images that differ in nothing are not chosen. Of images whose boxes differ by the same share,
    those with more boxes come first.
    """
    by_pixels = sorted((d for d in differences if d.pixels), key=lambda d: -d.pixels)
    by_boxes = sorted(
        (d for d in differences if d.unmatched), key=lambda d: (-d.unmatched_share, -d.boxes)
    )
    half = images - images // 2 if by_boxes else images
    chosen = by_pixels[:half]
    others = [d for d in by_boxes if d not in chosen]
    return (*chosen, *others[: images - len(chosen)])
