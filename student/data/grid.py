"""A dense tutor's label map under a sample's transform: a part of its cells, and where they lie."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.student.data.geometry import FloatArray, Transform

NOWHERE = np.zeros(8, np.float32)
"""A placement by which no pixel of the sample lies in the image."""


def cut(
    cells: npt.NDArray[np.generic], window: FloatArray, transform: Transform
) -> tuple[npt.NDArray[np.generic], FloatArray]:
    """Return the cells that a sample shows, and its placement among them.

    Args:
        cells: (h, w), of the whole image.
        window: (4,) where in them the image lies (`cache.format.grid`).
        transform: Of the sample.

    Returns:
        (h', w') cells, with a margin of one where there are more; and (8,) float32 in cells of
        those: left, top, right and bottom edge of the sample (left and right swapped if it is
        mirrored), and x1, y1, x2, y2 of the image.
    """
    left, top, right, bottom = window.astype(np.float64).tolist()
    across, down = (right - left) / transform.width, (bottom - top) / transform.height
    shown = transform.window
    x1, x2 = left + shown.x1 * across, left + shown.x2 * across
    y1, y2 = top + shown.y1 * down, top + shown.y2 * down
    columns, rows = _span(x1, x2, cells.shape[1]), _span(y1, y2, cells.shape[0])
    if transform.flip:
        x1, x2 = x2, x1
    placement = np.array([x1, y1, x2, y2, left, top, right, bottom])
    origin = np.array([columns.start, rows.start] * 4)
    return cells[rows, columns], (placement - origin).astype(np.float32)


def _span(start: float, end: float, cells: int) -> slice:
    first = min(max(math.floor(start) - 1, 0), cells - 1)
    return slice(first, max(min(math.ceil(end) + 1, cells), first + 1))


def sample_cells(vectors: Tensor, placements: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Interpolate the vectors of cells at a sample's pixels, bilinearly.

    Args:
        vectors: (B, C, h, w), of the cells that `cut` returned, the last ones repeated as padding.
        placements: (B, 8) of `cut`.
        side: s, of the map that is wanted.

    Returns:
        (B, C, s, s), and (B, s, s) bool, the pixels that lie beyond the image.
    """
    height, width = vectors.shape[-2:]
    left, top, right, bottom, x1, y1, x2, y2 = placements[..., None].unbind(dim=1)
    along = (torch.arange(side, device=vectors.device) + 0.5) / side
    x, y = left + along * (right - left), top + along * (bottom - top)  # (B, s)
    beyond_x, beyond_y = (x < x1) | (x >= x2), (y < y1) | (y >= y2)
    columns = (2 * x / width - 1)[:, None, :].expand(-1, side, -1)
    rows = (2 * y / height - 1)[:, :, None].expand(-1, -1, side)
    places = torch.stack([columns, rows], dim=-1)
    found = F.grid_sample(
        vectors, places.to(vectors.dtype), padding_mode="border", align_corners=False
    )
    return found, beyond_x[:, None, :] | beyond_y[:, :, None]
