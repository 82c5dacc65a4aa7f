"""Anchors, and the code between boxes and the offsets that the network predicts."""

import numpy as np
import torch
from torch import Tensor

from student.model.config import ModelConfig

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Offsets are divided by these: centre x, centre y, width, height (BlitzNet paper)."""

_SMALLEST_SIZE = 1e-6  # keeps the logarithm of a degenerate box finite


def scales(config: ModelConfig) -> tuple[tuple[float, float], ...]:
    """(scale, scale of the second square) of every map, relative to the image side.

    With n maps: the smallest scale, then from min to max in n - 2 equal steps. The second
    square has the geometric mean of a scale and the next; the last map's next is its own
    scale and a step.
    """
    maps = len(config.map_sides)
    step = (config.max_scale - config.min_scale) / (maps - 2)
    own = [config.smallest_scale] + [config.min_scale + i * step for i in range(maps - 1)]
    following = [*own[1:], own[-1] + step]
    return tuple((s, float(np.sqrt(s * t))) for s, t in zip(own, following, strict=True))


def make_anchors(config: ModelConfig) -> Tensor:
    """All anchors of one image, (A, 4) float32: centre x, centre y, width, height.

    Relative to the image (0..1), not clipped. Order: maps from the finest, then rows, columns,
    and in a cell: a square, a box of every aspect ratio a and 1/a, the larger square. A box of
    ratio a and scale s is s * sqrt(a) wide and s / sqrt(a) high.
    """
    grids = []
    for side, (scale, square) in zip(config.map_sides, scales(config), strict=True):
        sizes = [(scale, scale)]
        for ratio in config.aspect_ratios:
            root = float(np.sqrt(ratio))
            sizes += [(scale * root, scale / root), (scale / root, scale * root)]
        sizes.append((square, square))
        grids.append(_grid(side, np.array(sizes)))
    return torch.from_numpy(np.concatenate(grids).astype(np.float32))


def _grid(side: int, sizes: np.ndarray) -> np.ndarray:
    centres = (np.arange(side) + 0.5) / side
    grid = np.empty((side, side, len(sizes), 4))
    grid[..., 0] = centres[None, :, None]
    grid[..., 1] = centres[:, None, None]
    grid[..., 2:] = sizes
    return grid.reshape(-1, 4)


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
