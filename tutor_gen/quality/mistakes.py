"""What a tutor misses and what it invents: boxes, pixels, and which classes it mixes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES, VOC
from kdcli.voc.metrics.detection import box_iou, judge

KINDS = ("found already", "another class", "badly placed", "nothing there")
"""Of invented boxes: see `box_mistakes`."""
FOREGROUND = 0.5
NEARBY = 0.1
"""Overlaps above which a box is on an object, and near one."""


@dataclass(frozen=True, eq=False)
class BoxMistakes:
    """Boxes against the objects of one image or many.

    Attributes:
        found: (K,) int64, objects that a box finds, by class.
        missed: (K,) int64, objects that none finds; difficult ones are in neither.
        invented: (4, K) int64, boxes that find nothing, by `KINDS` and the class they say.
        confused: (K, K) int64, those of "another class": rows are the objects' classes, columns
            the boxes'.
    """

    found: NDArray[np.int64]
    missed: NDArray[np.int64]
    invented: NDArray[np.int64]
    confused: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int = VOC.size) -> Self:
        """Return those of no image, of so many classes with the background."""
        n = classes
        return cls(*(np.zeros(s, dtype=np.int64) for s in (n, n, (len(KINDS), n), (n, n))))

    def plus(self, other: BoxMistakes) -> BoxMistakes:
        """Both together."""
        return BoxMistakes(
            self.found + other.found,
            self.missed + other.missed,
            self.invented + other.invented,
            self.confused + other.confused,
        )


def box_mistakes(boxes: Detections, annotation: Annotation, classes: int = VOC.size) -> BoxMistakes:
    """Tell what the boxes of one image find, miss and invent; ``classes`` with the background.

    Which boxes are right, and which count, `voc.metrics.detection.judge` says. A wrong one has
    *found already* an object of its class (IoU above .5), or lies on one of *another class* (above
    .5), or is *badly placed* beside one of its class (above .1), or has *nothing there*; the first
    that holds. The kinds are those of TIDE (Bolya et al., ECCV 2020), whose boxes of wrong class
    and wrong place are here in the last.
    """
    right, counts = judge(boxes, annotation)
    objects = np.bincount(annotation.labels[~annotation.difficult], minlength=classes)
    found = np.bincount(boxes.labels[right], minlength=classes)
    wrong = boxes.take(counts & ~right)
    overlap = box_iou(wrong.boxes, annotation.boxes)
    same = wrong.labels[:, None] == annotation.labels[None]
    own, other = np.where(same, overlap, 0), np.where(same, 0, overlap)
    best = own.max(axis=1, initial=0)
    elsewhere = other.max(axis=1, initial=0) > FOREGROUND
    kinds = np.select([best > FOREGROUND, elsewhere, best > NEARBY], [0, 1, 2], 3)
    confused = np.zeros((classes, classes), dtype=np.int64)
    mixed_up = np.flatnonzero(kinds == 1)
    if len(mixed_up):
        objects_there = annotation.labels[other[mixed_up].argmax(axis=1)]
        np.add.at(confused, (objects_there, wrong.labels[mixed_up]), 1)
    invented = np.zeros((len(KINDS), classes), dtype=np.int64)
    np.add.at(invented, (kinds, wrong.labels), 1)
    return BoxMistakes(found, objects - found, invented, confused)


@dataclass(frozen=True)
class PixelMistakes:
    """Shares of pixels; nan where there are none to take a share of.

    Attributes:
        missed: of the pixels of objects, those called background.
        confused: of the pixels of objects, those called another object's class.
        invented: of the pixels called an object's, those that are background.
    """

    missed: float
    confused: float
    invented: float


def pixel_mistakes(counts: NDArray[np.int64]) -> PixelMistakes:
    """Tell what is wrong with the pixels of all classes together.

    Args:
        counts: (K, K), rows are the true classes, columns what was said.
    """
    objects, said = int(counts[1:].sum()), int(counts[:, 1:].sum())
    both = int(counts[1:, 1:].sum())
    return PixelMistakes(
        share(objects - both, objects),
        share(both - int(np.trace(counts[1:, 1:])), objects),
        share(said - both, said),
    )


@dataclass(frozen=True)
class Confusion:
    """Two classes that are mixed up: what is there, what was said, how often."""

    true: str
    said: str
    count: int


def confusions(
    counts: NDArray[np.int64], most: int, names: Sequence[str] = CLASSES
) -> tuple[Confusion, ...]:
    """Return the classes mixed up most often, background left out; at most so many.

    Args:
        counts: (K, K), rows are the true classes, columns what was said.
        most: how many to return.
        names: of the classes, background first.
    """
    mixed_up = counts.copy()
    np.fill_diagonal(mixed_up, 0)
    mixed_up[0], mixed_up[:, 0] = 0, 0
    order = np.argsort(-mixed_up, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, mixed_up.shape), strict=True)
    return tuple(
        Confusion(names[true], names[said], int(mixed_up[true, said]))
        for true, said in pairs
        if mixed_up[true, said]
    )


def share(part: int, whole: int) -> float:
    """Return part / whole; nan of nothing."""
    return part / whole if whole else float("nan")
