"""What one image's entry of the cache is made of: plain frozen dataclasses of numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections

MASK_SIDE = 28
"""Side of an instance mask as Mask R-CNN predicts it, in cells of its box."""

MASK_ERROR_BOUND = 0.5 / 255.0
"""Largest difference between a mask probability and its stored ``uint8`` form over 255."""

DROPPED: tuple[tuple[str, str], ...] = tuple(
    (role, reason)
    for role in ("detection", "segmentation")
    for reason in ("class", "floor", "empty", "clipped", "other")
)
"""What is counted of the instances that a tutor's adapter left out or changed: role and reason.

``class``: of a class that is none of the cache's; ``floor``: below the stored floor; ``empty``:
without area inside the image; ``clipped``: kept, its box cut at the image's border; ``other``:
any reason that is none of these.
"""

Dropped = Mapping[str, Mapping[str, int]]
"""Counts by role and reason; those that are 0 may be absent."""


@dataclass(frozen=True, eq=False)
class InstanceMasks(Detections):
    """The segmentation tutor's own masks, before they are pasted into the image.

    Attributes:
        masks: (n, 28, 28) uint8: probability times 255, rounded, cell (0, 0) at the box's upper
            left corner.
    """

    masks: NDArray[np.uint8]

    @classmethod
    def none(cls) -> Self:
        """Return no instances."""
        none = Detections.none()
        masks = np.zeros((0, MASK_SIDE, MASK_SIDE), np.uint8)
        return cls(none.boxes, none.labels, none.scores, masks)

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the instances that ``rows`` (indices or a mask) names."""
        return replace(super().take(rows), masks=self.masks[rows])

    def probabilities(self) -> NDArray[np.float32]:
        """Masks as (n, 28, 28) float32 in 0..1, at most ``MASK_ERROR_BOUND`` off the tutor's."""
        return self.masks.astype(np.float32) / np.float32(255)


def instance_masks(columns: Sequence[NDArray[Any]]) -> InstanceMasks:
    """The instances of one image, from the columns of the store's table."""
    masks, boxes, labels, scores = columns
    return InstanceMasks(boxes, labels, scores, masks)


def quantise_masks(probabilities: NDArray[Any]) -> NDArray[np.uint8]:
    """Probabilities (n, 28, 28) in 0..1 as uint8, rounded to the nearest 255th.

    Raises ``ValueError`` for NaN or values outside 0..1: they are no probabilities.
    """
    if not bool(np.all((probabilities >= 0) & (probabilities <= 1))):
        raise ValueError("Expected mask probabilities within 0..1, got others (or NaN)")
    return np.rint(np.asarray(probabilities, dtype=np.float64) * 255).astype(np.uint8)


def encode_dropped(dropped: Dropped) -> NDArray[np.uint32]:
    """Counts as a row (10,), one column for each of ``DROPPED``."""
    row = np.zeros(len(DROPPED), dtype=np.uint32)
    for role, counts in dropped.items():
        for reason, count in counts.items():
            known = reason if (role, reason) in DROPPED else "other"
            row[DROPPED.index((role, known))] += count
    return row


def decode_dropped(row: NDArray[np.integer]) -> dict[str, dict[str, int]]:
    """Counts by role and reason from a row (10,); what is 0 is absent."""
    dropped: dict[str, dict[str, int]] = {}
    for (role, reason), count in zip(DROPPED, row.tolist(), strict=True):
        if count:
            dropped.setdefault(role, {})[reason] = count
    return dropped


@dataclass(frozen=True, slots=True, eq=False)
class TutorOutput:
    """What the tutors said about one image.

    ``boxes``, ``labels``, ``scores``: see :class:`Detections`. ``index_map`` (H, W) uint8, or
    uint16 where the image has more than 256 distinct label vectors: the row of ``palette`` that is
    each pixel's label vector. From a dense tutor it is (h, w), each cell's, and ``window`` (4,)
    float32 says where in it the image lies (`cache.format.grid`), else None. ``palette`` (k, K)
    float32 of K classes, background first, k >= 1, row 0 all zero (background: no instance covers
    the pixel). Without a detection tutor the boxes are empty; without a segmentation tutor the map
    is all 0. ``instances`` is None unless the cache keeps the tutor's own masks. ``dropped`` (10,)
    uint32 counts what did not reach the cache, a column for each of ``DROPPED`` (see
    :func:`encode_dropped`); None where that is not known.
    """

    image_id: str
    boxes: NDArray[np.float32]
    labels: NDArray[np.uint8]
    scores: NDArray[np.float32]
    index_map: NDArray[np.uint8] | NDArray[np.uint16]
    palette: NDArray[np.float32]
    instances: InstanceMasks | None = None
    dropped: NDArray[np.uint32] | None = None
    window: NDArray[np.float32] | None = None

    @property
    def detections(self) -> Detections:
        """The detection tutor's boxes."""
        return Detections(self.boxes, self.labels, self.scores)

    @property
    def height(self) -> int:
        """Rows of the label map: those of the image, but for a dense tutor's."""
        return int(self.index_map.shape[0])

    @property
    def width(self) -> int:
        """Columns of the label map."""
        return int(self.index_map.shape[1])

    def label_vectors(self) -> NDArray[np.float32]:
        """The dense form of the map, (H, W, K) float32: 15.75 MB for a 500 x 375 image of VOC."""
        return self.palette[self.index_map]

    def equals(self, other: TutorOutput) -> bool:
        """Whether both say the same, bit for bit (the index type of ``index_map`` aside)."""
        return (
            self.image_id == other.image_id
            and np.array_equal(self.index_map, other.index_map)
            and _same_bits(self.palette, other.palette)
            and _same_bits(self.boxes, other.boxes)
            and _same_bits(self.labels, other.labels)
            and _same_bits(self.scores, other.scores)
            and _same_instances(self.instances, other.instances)
            and _same_optional(self.dropped, other.dropped)
            and _same_optional(self.window, other.window)
        )


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _same_optional(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    return a is b if a is None or b is None else _same_bits(a, b)


def _same_instances(a: InstanceMasks | None, b: InstanceMasks | None) -> bool:
    if a is None or b is None:
        return a is b
    return (
        _same_bits(a.masks, b.masks)
        and _same_bits(a.boxes, b.boxes)
        and _same_bits(a.labels, b.labels)
        and _same_bits(a.scores, b.scores)
    )


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image the tutors could not label, and why; a rerun tries it again."""

    image_id: str
    reason: str
