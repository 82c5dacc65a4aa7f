"""Instances to label vectors, palette-coded from the start.

A label vector (the thesis, section on the segmentation tutor) has 21 entries. Per pixel, the entry
of class c is the box confidence of the instance of class c that covers the pixel, and 0 where none
does; of several instances of one class the largest confidence stays. The H x W x 21 array is never
made: an image holds few distinct vectors, so it is a map of codes and the table they point into.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tutor_gen.errors import TutorError
from voc.classes import NUM_CLASSES

_LARGEST_PALETTE = 2**16

_Vector = tuple[float, ...]
_ZERO: _Vector = (0.0,) * NUM_CLASSES


def code_label_vectors(
    masks: NDArray[np.bool_],
    labels: NDArray[np.integer],
    confidences: NDArray[np.float32],
    height: int,
    width: int,
    boxes: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.float32]]:
    """Code the label vectors of one image.

    Args:
        masks: (n, height, width) bool, pasted instance masks.
        labels: (n,) VOC class ids 1..20.
        confidences: (n,) float32.
        height: image height in pixels.
        width: image width in pixels.
        boxes: (n, 4) float32 x1 y1 x2 y2, or None. An instance covers the pixels that its box
            touches and its mask marks; without boxes, those that its mask marks.

    Returns:
        The (height, width) map of codes, uint8, or uint16 beyond 256 distinct vectors, and the
        (k, 21) float32 palette. ``palette[map]`` are the label vectors. Palettes are canonical:
        only vectors that occur, each once, in lexicographic order, except that the zero vector is
        always ``palette[0]``.

    Raises:
        TutorError: the image has more than 65,536 distinct vectors.
    """
    codes = np.zeros((height, width), dtype=np.int32)
    vectors: list[_Vector] = [_ZERO]
    known: dict[_Vector, int] = {_ZERO: 0}
    # Ascending confidence: whatever an instance finds at its class's entry is smaller than its own.
    for index in np.argsort(confidences, kind="stable"):
        window = _window(None if boxes is None else boxes[index], height, width)
        region = codes[window]
        covered = masks[index][window]
        present = np.bincount(region[covered], minlength=1)
        recode = np.zeros(len(present), dtype=np.int32)
        for code in np.flatnonzero(present):
            vector = _with(vectors[code], int(labels[index]), float(confidences[index]))
            if vector not in known:
                known[vector] = len(vectors)
                vectors.append(vector)
            recode[code] = known[vector]
        region[covered] = recode[region[covered]]
    return _canonical(codes, vectors)


def _window(box: NDArray[np.float32] | None, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches."""
    if box is None:
        return slice(0, height), slice(0, width)
    left, top = np.floor(np.maximum(box[:2], 0)).astype(int)
    right, bottom = np.ceil(np.minimum(box[2:], (width, height))).astype(int)
    return slice(top, max(bottom, top)), slice(left, max(right, left))


def _with(vector: _Vector, label: int, confidence: float) -> _Vector:
    return (*vector[:label], confidence, *vector[label + 1 :])


def _canonical(
    codes: NDArray[np.int32], vectors: list[_Vector]
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.float32]]:
    """Drop unused codes, sort the rest; the zero vector sorts first by itself."""
    used = np.bincount(codes.ravel(), minlength=len(vectors)) > 0
    used[0] = True
    order = sorted(np.flatnonzero(used).tolist(), key=vectors.__getitem__)
    if len(order) > _LARGEST_PALETTE:
        raise TutorError(
            f"expected at most {_LARGEST_PALETTE} distinct label vectors in one image, "
            f"got {len(order)}; raise the confidence floor or lower the detections per image"
        )
    recode = np.zeros(len(vectors), dtype=np.uint16)
    recode[order] = np.arange(len(order))
    palette = np.array([vectors[code] for code in order], dtype=np.float32)
    label_map = recode[codes]
    return (label_map if len(order) > 256 else label_map.astype(np.uint8)), palette
