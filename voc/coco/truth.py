"""The ground truth of one image, in VOC's form, from a COCO JSON's annotations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcli.voc.annotation import Annotation
from kdcli.voc.coco import rle
from kdcli.voc.coco.content import Box, CocoDocument, CocoImage, CocoObject
from kdcli.voc.images import surrounding_box
from kdcli.voc.labels import VOID

LEFT_OUT = "boxes without area in their image, left out"
WIDENED = "boxes thinner than one pixel, widened to one"
CLIPPED = "boxes that left their image by more than a pixel, clipped"
UNNUMBERED = "images of more than 254 objects, without object mask"


@dataclass(frozen=True, eq=False)
class Truth:
    """Boxes and masks of one image.

    Attributes:
        annotation: boxes; None if the JSON has no categories of objects, or the image has regions
            alone.
        class_mask: (H, W) uint8 class ids, `VOID` in crowds; None where there is no region, and
            not every object but crowds has a segmentation.
        object_mask: (H, W) uint8 numbers of the boxes from 1, `VOID` in crowds; None where not
            every object but crowds has a segmentation.
        notes: what was changed, and how often.
    """

    annotation: Annotation | None
    class_mask: NDArray[np.uint8] | None
    object_mask: NDArray[np.uint8] | None
    notes: Counter[str]


@dataclass(frozen=True, eq=False)
class _Item:
    """An annotation as it is needed: class id, box inside the image, pixels if known."""

    stated: CocoObject
    label: int
    box: Box | None
    mask: NDArray[np.bool_] | None

    @property
    def value(self) -> int:
        """What it is painted with in a class mask."""
        return VOID if self.stated.crowd else self.label


def truth_of(
    document: CocoDocument,
    image: CocoImage,
    objects: Sequence[CocoObject],
    image_id: str,
    ids: Mapping[str, int],
) -> Truth:
    """Return the ground truth of an image of ``document``.

    Masks are painted regions first, then crowds as void, then objects: by their scores if all have
    one, the surest on top, else the smallest on top.

    Args:
        document: says whether there are regions or masks at all.
        image: which image.
        objects: its annotations.
        image_id: what it will be called.
        ids: class id of each category, `VOID` for one whose pixels are void; categories that are
            missing here are left out.

    Raises:
        DevkitError: a segmentation cannot be read, or is of another size than the image.
    """
    notes: Counter[str] = Counter()
    regions, things = [], []
    for each in objects:
        if label := ids.get(each.name, 0):
            item = _item(each, label, image, notes)
            if each.region or label == VOID:
                regions.append(item)
            elif item.box is not None:
                things.append(item)
    told = [item for item in regions if item.label != VOID]
    boxed = document.has_things and (bool(things) or not told)
    annotation = _annotation(image_id, image, things) if boxed else None
    whole = all(item.mask is not None or item.stated.crowd for item in things)
    class_mask = object_mask = None
    painted = sorted(range(len(things)), key=_layers(things))
    if told or (whole and (document.has_masks or document.has_regions)):
        values = [(item.mask, item.value) for item in [*regions, *(things[i] for i in painted)]]
        class_mask = _painted(image, values)
    if boxed and whole and document.has_masks:
        voids = [(item.mask, VOID) for item in regions if item.label == VOID]
        numbers = [(things[i].mask, VOID if things[i].stated.crowd else i + 1) for i in painted]
        object_mask = _painted(image, voids + numbers) if len(things) < VOID else None
        notes[UNNUMBERED] += object_mask is None
    return Truth(annotation, class_mask, object_mask, +notes)


def _item(each: CocoObject, label: int, image: CocoImage, notes: Counter[str]) -> _Item:
    mask = None
    if each.segmentation is not None:
        mask = rle.decode(each.segmentation, image.height, image.width)
    if each.region or label == VOID:
        return _Item(each, label, None, mask)
    box = each.box
    if box is None and mask is not None:
        box = surrounding_box(mask)
    inside = None if box is None else _inside(box, image, notes)
    notes[LEFT_OUT] += inside is None
    return _Item(each, label, inside, mask)


def _annotation(image_id: str, image: CocoImage, things: Sequence[_Item]) -> Annotation:
    return Annotation(
        image_id,
        image.height,
        image.width,
        boxes=np.array([item.box for item in things], np.float32).reshape(-1, 4),
        labels=np.array([item.label for item in things], np.int64),
        difficult=np.array([item.stated.crowd for item in things], np.bool_),
        truncated=np.zeros(len(things), np.bool_),
    )


def _layers(things: Sequence[_Item]) -> Callable[[int], tuple[bool, float, int]]:
    """Return what decides in which order things are painted, by their position."""
    scored = all(item.stated.score is not None for item in things)

    def layer(position: int) -> tuple[bool, float, int]:
        item = things[position]
        pixels = 0 if item.mask is None else int(np.count_nonzero(item.mask))
        order = item.stated.score if scored else -pixels
        return not item.stated.crowd, float(order or 0), -item.label

    return layer


def _painted(
    image: CocoImage, values: Iterable[tuple[NDArray[np.bool_] | None, int]]
) -> NDArray[np.uint8]:
    mask = np.zeros((image.height, image.width), np.uint8)
    for where, value in values:
        if where is not None:
            mask[where] = value
    return mask


def _inside(box: Box, image: CocoImage, notes: Counter[str]) -> Box | None:
    """Clip a box to its image, at least a pixel wide and high; None if nothing is left of it."""
    x1, y1, x2, y2 = np.array(box, np.float32).tolist()  # as they will be kept
    left, right = max(x1, 0.0), min(x2, float(image.width))
    top, bottom = max(y1, 0.0), min(y2, float(image.height))
    if right <= left or bottom <= top:
        return None
    notes[CLIPPED] += max(left - x1, top - y1, x2 - right, y2 - bottom) > 1
    notes[WIDENED] += min(right - left, bottom - top) < 1
    left, right = _at_least_a_pixel(left, right)
    top, bottom = _at_least_a_pixel(top, bottom)
    return left, top, right, bottom


def _at_least_a_pixel(start: float, end: float) -> tuple[float, float]:
    """Return a stretch, if it is shorter than a pixel the pixel that holds its middle."""
    if end - start >= 1:
        return start, end
    pixel = float(math.floor((start + end) / 2))
    return pixel, pixel + 1
