"""Label vectors that are not piecewise constant: rounded to levels, then palette-coded.

Every entry is rounded to the nearest multiple of 1 / levels, so it is at most half a level off. An
image that would have more than 65,536 distinct vectors takes half as many levels, and again.
One byte plane (H, W) a class that occurs; the dense float array is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.labels.hard import (
    IndexMap,
    TooManyVectorsError,
    canonical,
    check_palette_size,
    window_of,
)
from kdcli.voc.classes import VOC

Planes = dict[int, NDArray[np.uint8]]
"""(H, W) levels by class id; a class without a plane is 0 everywhere."""
Coded = tuple[IndexMap, NDArray[np.float32]]


def with_levels_that_fit(code: Callable[[int], Coded], levels: int) -> Coded:
    """Return ``code(levels)``, or of half as many levels where those make too many vectors.

    Raises:
        TooManyVectorsError: even two levels make too many.
    """
    while True:
        try:
            return code(levels)
        except TooManyVectorsError:
            if levels < 4:
                raise
            levels //= 2


def code_soft(
    masks: NDArray[np.uint8],
    weights: NDArray[np.float32],
    boxes: NDArray[np.float32],
    levels: int,
) -> Coded:
    """Code the largest of mask probability times weight over the instances, entry by entry.

    Args:
        masks: (n, H, W) uint8, pasted mask probabilities times 255.
        weights: (n, K) float32 in 0..1.
        boxes: (n, 4) float32 x1 y1 x2 y2; an instance counts in the pixels its box touches.
        levels: how many steps from 0 to 1.

    Returns:
        Map and palette as `tutor_gen.labels.hard.code_label_vectors`.

    Raises:
        TooManyVectorsError: the image has more than 65,536 distinct vectors.
    """
    shape = masks.shape[1:]
    probabilities = np.arange(256) / 255
    planes: Planes = {}
    for mask, weight, box in zip(masks, weights.astype(np.float64), boxes, strict=True):
        window = window_of(box, *shape)
        # Classes that stay below half a level leave no trace.
        for label in np.flatnonzero(np.rint(weight * levels)).tolist():
            rounded = np.rint(probabilities * (weight[label] * levels)).astype(np.uint8)
            plane = planes.setdefault(label, np.zeros(shape, dtype=np.uint8))
            np.maximum(plane[window], rounded[mask[window]], out=plane[window])
    return code_planes(planes, shape, levels, weights.shape[1])


def code_planes(
    planes: Mapping[int, NDArray[np.uint8]],
    shape: tuple[int, ...],
    levels: int,
    classes: int = VOC.size,
) -> Coded:
    """Palette-code the vectors whose entry c is ``planes[c] / levels``.

    Args:
        planes: (H, W) uint8 in 0..levels by class id; absent ones are 0.
        shape: (H, W).
        levels: how many steps from 0 to 1.
        classes: length of a vector.

    Raises:
        TooManyVectorsError: the image has more than 65,536 distinct vectors.
    """
    codes = np.zeros(shape, dtype=np.int32)
    vectors = np.zeros((1, classes), dtype=np.float32)
    for label, plane in planes.items():
        pairs = codes * (levels + 1) + plane
        # By counting, not by sorting: a pixel's pair is one of few numbers.
        present = np.flatnonzero(np.bincount(pairs.ravel()))
        check_palette_size(len(present))
        recode = np.zeros(present[-1] + 1, dtype=np.int32)
        recode[present] = np.arange(len(present))
        codes = recode[pairs]
        earlier, level = np.divmod(present, levels + 1)
        vectors = vectors[earlier]
        vectors[:, label] = level / levels
    zero = np.zeros((1, classes), dtype=np.float32)
    if vectors[0].any():
        return canonical(codes + 1, np.concatenate([zero, vectors]))
    return canonical(codes, vectors)
