"""A store's label vectors pixel by pixel, whatever its tutor: what scores are counted on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.grid import spread
from kdcli.cache.reader import TutorCache


def pixel_vectors(
    cache: TutorCache, image_id: str, size: tuple[int, int]
) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
    """Return an image's map and palette, (height, width) and (k, K) float32.

    An image whose labelling failed is all zero vectors; of a dense tutor's cells each pixel has a
    vector of its own, interpolated.
    """
    if image_id in cache.failed:
        nothing = np.zeros((1, len(cache.class_names)), dtype=np.float32)
        return np.zeros(size, dtype=np.uint8), nothing
    index_map, palette = cache.index_map(image_id), cache.palette(image_id)
    window = cache.window(image_id)
    if window is None:
        return index_map, palette
    vectors = spread(palette[index_map], window, *size).reshape(-1, palette.shape[1])
    return np.arange(len(vectors)).reshape(size), vectors
