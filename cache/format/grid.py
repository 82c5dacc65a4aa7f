"""Label maps that are coarser than their image: cells of a dense tutor's network.

A grid of h x w cells shows an image through a window: the rectangle x1 y1 x2 y2 of the grid, in
cells from its upper left corner, that the image fills. Between the centres of cells vectors are
interpolated bilinearly, beyond the outermost centres they stay as they are, as PyTorch's
``interpolate(mode="bilinear", align_corners=False)`` does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def whole_window(height: int, width: int) -> NDArray[np.float32]:
    """The window of an image that fills all of a grid of (height, width) cells."""
    return np.array([0, 0, width, height], np.float32)


def spread(
    vectors: NDArray[np.float32], window: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """Vectors of an image's pixels, (height, width, C) float32, from those of cells (h, w, C)."""
    x1, y1, x2, y2 = window.astype(np.float64).tolist()
    rows = _weights(y1, y2, height, vectors.shape[0])
    columns = _weights(x1, x2, width, vectors.shape[1])
    upright = np.tensordot(rows, vectors, axes=(1, 0))  # (height, w, C)
    return np.tensordot(upright, columns, axes=(1, 1)).transpose(0, 2, 1)


def _weights(start: float, end: float, pixels: int, cells: int) -> NDArray[np.float32]:
    """(pixels, cells): how much each cell adds to each pixel, along one axis."""
    centres = start + (np.arange(pixels) + 0.5) * ((end - start) / pixels) - 0.5
    centres = centres.clip(0, cells - 1)
    lower = np.floor(centres).astype(np.intp).clip(0, max(cells - 2, 0))
    upper = np.minimum(lower + 1, cells - 1)
    part = (centres - lower).astype(np.float32)
    weights = np.zeros((pixels, cells), np.float32)
    every = np.arange(pixels)
    np.add.at(weights, (every, lower), 1 - part)
    np.add.at(weights, (every, upper), part)
    return weights
