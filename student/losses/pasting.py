"""Instance masks over boxes: where a map's pixels lie in a box, and what a mask says of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def places(boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where pixel centres lie in boxes (B, M, 4), 0 at the first edge, 1 at the last: (B, M, s)."""
    centres = (torch.arange(side, device=boxes.device) + 0.5) / side
    start, size = boxes[..., :2], (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    x = (centres - start[..., :1]) / size[..., :1]
    y = (centres - start[..., 1:]) / size[..., 1:]
    return x, y


def inside(x: Tensor, y: Tensor) -> Tensor:
    """Of `places`: whether a pixel's centre lies in a box, (B, M, s, s) bool."""
    return ((y >= 0) & (y <= 1))[:, :, :, None] & ((x >= 0) & (x <= 1))[:, :, None, :]


def paste(masks: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Masks as a map's pixels see them, 0 outside their boxes.

    A mask spans its box; pixel centres inside the box are interpolated bilinearly between the
    centres of the mask's cells, as when Detectron2 pastes masks into an image.

    Args:
        masks: (B, N, h, w) uint8, probabilities times 255.
        boxes: (B, N, 4) x1 y1 x2 y2 relative to the map; they may reach outside.
        side: s of the map.

    Returns:
        (B, N, s, s) float32 probabilities.
    """
    images, count, *_ = masks.shape
    if not count:
        return boxes.new_zeros((images, 0, side, side))
    x, y = places(boxes, side)
    grid = torch.stack(
        [
            (2 * x - 1)[:, :, None, :].expand(-1, -1, side, -1),
            (2 * y - 1)[:, :, :, None].expand(-1, -1, -1, side),
        ],
        dim=-1,
    )
    read = F.grid_sample(
        masks.reshape(images * count, 1, *masks.shape[2:]).float() / 255,
        grid.reshape(images * count, side, side, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return torch.where(inside(x, y), read.reshape(images, count, side, side), 0.0)
