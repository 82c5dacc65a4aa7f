"""Anchors, and the code between boxes and the offsets that the network predicts."""

import numpy as np
import torch
from torch import Tensor

from kdcli.student.model.config import ModelConfig

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Offsets are divided by these: centre x, centre y, width, height (BlitzNet paper)."""

_SMALLEST_SIZE = 1e-6  # keeps the logarithm of a degenerate box finite


def scales(config: ModelConfig) -> tuple[tuple[float, float], ...]:
    """(scale, next scale) of every map, relative to the image side.

    With n maps: the smallest scale, then from min to max in n - 2 equal steps. The last map's
    next is its own scale and a step.
    """
    maps = len(config.map_sides)
    step = (config.max_scale - config.min_scale) / (maps - 2)
    own = [config.smallest_scale] + [config.min_scale + i * step for i in range(maps - 1)]
    following = [*own[1:], own[-1] + step]
    return tuple(zip(own, following, strict=True))


def make_anchors(config: ModelConfig) -> Tensor:
    """All anchors of one image, (A, 4) float32: centre x, centre y, width, height.

    Relative to the image (0..1), not clipped. Order: maps from the finest, then rows, columns,
    and in a cell: a square, a box of every aspect ratio a and 1/a, the larger square. A box of
    ratio a and scale s is s * sqrt(a) wide and s / sqrt(a) high; the larger square's side is
    the geometric mean of the scale and the next.

    All arithmetic is float32 in the order of the public TensorFlow code. In matching, overlaps
    that are equal but for rounding are frequent (a small box inside all anchors of a cell, which
    have one area; a box over the middle of two cells); the same rounding picks the same anchor.
    """
    grids = []
    for side, pair in zip(config.map_sides, scales(config), strict=True):
        own, following = np.float32(pair[0]), np.float32(pair[1])
        sizes = [(own, own)]
        for ratio in config.aspect_ratios:
            for root in (np.sqrt(np.float32(ratio)), np.sqrt(np.float32(1 / ratio))):
                sizes.append((own * root, own / root))
        square = np.sqrt(own * following)
        sizes.append((square, square))
        grids.append(_grid(side, np.array(sizes, dtype=np.float32)))
    return torch.from_numpy(np.concatenate(grids))


def _grid(side: int, sizes: np.ndarray) -> np.ndarray:
    grid = np.empty((side, side, len(sizes), 4), dtype=np.float32)
    grid[..., 0] = _centres(side)[None, :, None]
    grid[..., 1] = _centres(side)[:, None, None]
    grid[..., 2:] = sizes
    return grid.reshape(-1, 4)


def _centres(side: int) -> np.ndarray:
    """(i + 0.5) / side, as steps from the first to the last centre."""
    first, last = np.float32(0.5 / side), np.float32(1 - 0.5 / side)
    step = (last - first) / np.float32(max(side - 1, 1))
    centres = first + step * np.arange(side, dtype=np.float32)
    centres[-1] = last
    return centres


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets of boxes from their anchors.

    Args:
        boxes: (..., A, 4) x1 y1 x2 y2, relative to the image.
        anchors: (A, 4) centre x, centre y, width, height, relative to the image.

    Returns:
        (..., A, 4): centre differences over the anchor's size, logarithms of the size ratios,
        each over its variance (BlitzNet paper, as in SSD).
    """
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2
    shift = (centre - anchors[:, :2]) / anchors[:, 2:]
    stretch = torch.log(size.clamp(min=_SMALLEST_SIZE) / anchors[:, 2:])
    return torch.cat([shift / VARIANCES[0], stretch / VARIANCES[2]], dim=-1)


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Boxes that the offsets stand for; the inverse of `encode_boxes`.

    Args:
        offsets: (..., A, 4), computed with in float32 whatever they are.
        anchors: (A, 4) centre x, centre y, width, height, relative to the image.

    Returns:
        (..., A, 4) float32 x1 y1 x2 y2, relative to the image, not clipped.
    """
    offsets = offsets.float()
    centre = offsets[..., :2] * VARIANCES[0] * anchors[:, 2:] + anchors[:, :2]
    half = torch.exp(offsets[..., 2:] * VARIANCES[2]) * anchors[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
