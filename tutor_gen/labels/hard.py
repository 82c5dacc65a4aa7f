"""Instances to label vectors, palette-coded from the start.

A label vector (the thesis, section on the segmentation tutor) has an entry for each of K classes,
background first. Per pixel, the entry of class c is the box confidence of the instance of class c
that covers the pixel, and 0 where none does; of several instances of one class the largest
confidence stays. The H x W x K array is never made: an image holds few distinct vectors, so it is a
map of codes and the table they point into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.tutors.label_form import Background
from kdcli.voc.classes import VOC

LARGEST_PALETTE = 2**16


class TooManyVectorsError(TutorError):
    """An image has more distinct label vectors than a palette holds."""


IndexMap = NDArray[np.uint8] | NDArray[np.uint16]

_Vector = tuple[float, ...]


def code_label_vectors(
    masks: NDArray[np.bool_],
    labels: NDArray[np.integer],
    scores: NDArray[np.float32],
    height: int,
    width: int,
    boxes: NDArray[np.float32] | None = None,
    classes: int = VOC.size,
) -> tuple[IndexMap, NDArray[np.float32]]:
    """Code the label vectors of one image in the thesis' form.

    Args:
        masks: (n, height, width) bool, pasted instance masks.
        labels: (n,) class ids 1..``classes`` - 1.
        scores: (n,) float32.
        height: image height in pixels.
        width: image width in pixels.
        boxes: (n, 4) float32 x1 y1 x2 y2, or None. An instance covers the pixels that its box
            touches and its mask marks; without boxes, those that its mask marks.
        classes: K, background included.

    Returns:
        The (height, width) map of codes, uint8, or uint16 beyond 256 distinct vectors, and the
        (k, K) float32 palette. ``palette[map]`` are the label vectors. Palettes are canonical:
        only vectors that occur, each once, in lexicographic order, except that the zero vector is
        always ``palette[0]``.

    Raises:
        TutorError: the image has more than 65,536 distinct vectors.
    """
    return code_hard(masks, at_class(labels, scores, classes), height, width, boxes)


def at_class(
    labels: NDArray[np.integer], values: NDArray[np.float32], classes: int = VOC.size
) -> NDArray[np.float32]:
    """Return (n, ``classes``) float32 rows that are 0 but for each value at its label."""
    rows = np.zeros((len(labels), classes), dtype=np.float32)
    rows[np.arange(len(labels)), labels] = values
    return rows


def code_hard(
    masks: NDArray[np.bool_],
    weights: NDArray[np.float32],
    height: int,
    width: int,
    boxes: NDArray[np.float32] | None = None,
) -> tuple[IndexMap, NDArray[np.float32]]:
    """Code the entrywise largest of the ``weights`` (n, K) of the instances that cover a pixel.

    The other arguments, the result and errors are those of `code_label_vectors`. Exact.
    """
    codes = np.zeros((height, width), dtype=np.int32)
    zero: _Vector = (0.0,) * weights.shape[1]
    vectors: list[_Vector] = [zero]
    known: dict[_Vector, int] = {zero: 0}
    for index, weight in enumerate(weights.tolist()):
        window = window_of(None if boxes is None else boxes[index], height, width)
        region = codes[window]
        covered = masks[index][window]
        present = np.bincount(region[covered], minlength=1)
        recode = np.zeros(len(present), dtype=np.int32)
        for code in np.flatnonzero(present):
            vector = tuple(map(max, vectors[code], weight))
            if vector not in known:
                known[vector] = len(vectors)
                vectors.append(vector)
            recode[code] = known[vector]
        region[covered] = recode[region[covered]]
    return canonical(codes, np.array(vectors, dtype=np.float32))


def window_of(box: NDArray[np.float32] | None, height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns of the pixels that a box touches, all of them without a box."""
    if box is None:
        return slice(0, height), slice(0, width)
    left, top = np.floor(np.maximum(box[:2], 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:], (width, height))).astype(int)
    return slice(top, max(bottom, top)), slice(left, max(right, left))


def add_background(
    index_map: IndexMap,
    palette: NDArray[np.float32],
    background: Background,
    levels: int | None = None,
) -> tuple[IndexMap, NDArray[np.float32]]:
    """Fill entry 0 of all vectors from their other entries, see `LabelForm.background`.

    Where the others were rounded to multiples of 1 / levels, so is it.
    Row 0 of the palette stays the zero vector, though no pixel has it any more: it is what the
    format keeps for pixels that are not the image's.
    """
    if background == "none":
        return index_map, palette
    entries = palette[:, 1:].astype(np.float64)
    mass = 1 - entries.max(axis=1) if background == "rest" else np.prod(1 - entries, axis=1)
    filled = palette.copy()
    filled[:, 0] = mass if levels is None else np.rint(mass * levels) / levels
    vectors = np.concatenate([np.zeros((1, filled.shape[1]), np.float32), filled])
    return canonical(index_map.astype(np.int32) + 1, vectors)


def canonical(
    codes: NDArray[np.int32], vectors: NDArray[np.float32]
) -> tuple[IndexMap, NDArray[np.float32]]:
    """Drop unused codes, sort the rest; the zero vector, which is row 0, sorts first by itself."""
    used = np.bincount(codes.ravel(), minlength=len(vectors)) > 0
    used[0] = True
    kept = np.flatnonzero(used)
    order = kept[np.lexsort(vectors[kept].T[::-1])]
    check_palette_size(len(order))
    recode = np.zeros(len(vectors), dtype=np.uint16)
    recode[order] = np.arange(len(order))
    index_map = recode[codes]
    return (index_map if len(order) > 256 else index_map.astype(np.uint8)), vectors[order]


def check_palette_size(distinct: int) -> None:
    """Raise ``TooManyVectorsError`` beyond 65,536 distinct vectors, which no image may have."""
    if distinct > LARGEST_PALETTE:
        raise TooManyVectorsError(
            f"expected at most {LARGEST_PALETTE} distinct label vectors in one image, "
            f"got {distinct}; raise the confidence floor or lower the detections per image"
        )
