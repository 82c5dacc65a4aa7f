"""Ground truth of instances: which box each object of an object mask belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import OBJECT_MASKS, Devkit
from kdcli.voc.images import surrounding_box
from kdcli.voc.labels import VOID
from kdcli.voc.metrics.detection import box_iou

LEAST_OVERLAP = 0.3
"""Least IoU of an XML's box and the box around an object's pixels, for the two to be one object.

Void borders and what covers an object make the latter smaller: of 475 drawn objects two are below
0.5, none is below 0.3; and so few of 2,781 real ones (COCO's, without borders) that have a box.
"""


@dataclass(frozen=True, eq=False)
class ObjectMap:
    """Instance masks of one image: no pixel is of two objects.

    Attributes:
        rows: (H, W) uint8: r + 1 at the pixels of the object with the annotation's box r, 0 in the
            background, `VOID` where the mask is void or shows an object that has no box.
        unmatched: objects of the mask that have no box.
    """

    rows: NDArray[np.uint8]
    unmatched: int

    def has_mask(self, boxes: int) -> NDArray[np.bool_]:
        """Return which of so many boxes have a mask, (boxes,)."""
        counts = np.bincount(self.rows.ravel(), minlength=max(boxes + 1, VOID + 1))
        counts[VOID] = 0  # of so many boxes the last have none: their numbers do not fit
        return np.asarray(counts[1 : boxes + 1] > 0)


@dataclass(frozen=True, eq=False)
class InstanceTruth:
    """Boxes of an image and the masks that belong to them."""

    annotation: Annotation
    objects: ObjectMap

    def masks(self) -> NDArray[np.bool_]:
        """Return the masks of all boxes, (n, H, W); of a box without mask an empty one."""
        numbers = np.arange(1, len(self.annotation.labels) + 1)[:, None, None]
        return np.asarray((self.objects.rows == numbers) & (numbers < VOID))


def instance_truth(
    devkit: Devkit, image_id: str, size: tuple[int, int] | None = None
) -> InstanceTruth | None:
    """Read an image's instances; None if it lacks an XML file or an object mask.

    Args:
        devkit: Where they lie.
        image_id: Which image.
        size: (height, width) of its photograph if known; saves reading its header.

    Raises:
        DevkitError: see `Devkit.annotation` and `Devkit.mask`.
    """
    annotation = devkit.annotation(image_id, size)
    if annotation is None:
        return None
    numbers = devkit.mask(image_id, OBJECT_MASKS, size)
    if numbers is None:
        return None
    return InstanceTruth(annotation, match_objects(numbers, annotation.boxes))


def match_objects(numbers: NDArray[np.uint8], boxes: NDArray[np.float32]) -> ObjectMap:
    """Find the box of each object by overlap, as an object's number need not be its box' place.

    Of all pairs of a box and the box around an object's pixels, the one of largest IoU is taken
    first, and so on while both are free and the IoU is at least `LEAST_OVERLAP`. Of equal ones that
    whose number says the box' place goes first.

    Args:
        numbers: (H, W) uint8 object numbers from 1, 0 for background, `VOID`.
        boxes: (n, 4) x1 y1 x2 y2 in pixels; only the first 254 can have a mask.
    """
    present = np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)[:VOID])
    present = present[present > 0]
    around = [surrounding_box(numbers == number) for number in present]
    overlap = box_iou(np.array(around, np.float32).reshape(-1, 4), boxes[: VOID - 1])
    meaning = np.full(256, VOID, np.uint8)
    meaning[0] = 0
    own = present[:, None] == np.arange(1, overlap.shape[1] + 1)
    order = np.lexsort((~own.ravel(), -overlap.ravel()))
    free = np.ones(overlap.shape[1], np.bool_)
    for place in order[overlap.ravel()[order] >= LEAST_OVERLAP].tolist():
        thing, box = divmod(place, overlap.shape[1])
        if free[box] and meaning[present[thing]] == VOID:
            free[box] = False
            meaning[present[thing]] = box + 1
    return ObjectMap(meaning[numbers], int((meaning[present] == VOID).sum()))
