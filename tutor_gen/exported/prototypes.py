"""Masks as sums of prototypes, weighted by each detection's coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from kdcli.tutor_gen.exported.detections import Detected
from kdcli.tutor_gen.exported.frame import Frame
from kdcli.tutor_gen.exported.values import Values
from kdcli.tutor_gen.labels.hard import window_of


def masks_of_prototypes(
    values: Values, found: Detected, boxes: NDArray[np.float32], frame: Frame, *, soft: bool
) -> NDArray[np.bool_] | NDArray[np.uint8]:
    """Make the masks of detections, each within its box.

    The sums are read bilinearly at the centres of the photograph's pixels, then go through the
    sigmoid.

    Args:
        values: what the export returned, prototypes (k, h, w) and coefficients (n, k) among it.
        found: the detections that were made of it.
        boxes: (n, 4) of those, in the photograph's pixels.
        frame: where the photograph lies in the tensor that the prototypes cover.
        soft: whether probabilities times 255, rounded down, are wanted as uint8, or bool: those of
            at least 0.5.

    Raises:
        TutorError: there are no such prototypes or coefficients.
    """
    output = values.output
    assert output.prototypes is not None
    assert output.coefficients is not None
    prototypes = values.tensor(output.prototypes).float()
    table = values.array(output.coefficients, 2)
    if prototypes.dim() != 3 or table.shape != (found.count, len(prototypes)):
        raise values.unexpected(
            f"prototypes (k, h, w) and coefficients ({found.count}, k)",
            f"{tuple(prototypes.shape)} and {table.shape}",
        )
    weights = torch.from_numpy(table[found.rows]).float()
    height, width = frame.original
    shape = (len(boxes), height, width)
    masks: NDArray[Any] = np.zeros(shape, np.uint8 if soft else np.bool_)
    for mask, weight, box in zip(masks, weights, boxes, strict=True):
        inside = window_of(box, height, width)
        grid = _grid(frame, *inside)
        if grid.numel():
            logits = torch.einsum("k,khw->hw", weight, prototypes)
            read = F.grid_sample(
                logits[None, None], grid[None], padding_mode="border", align_corners=False
            )[0, 0]
            mask[inside] = ((read.sigmoid() * 255).byte() if soft else read >= 0).numpy()
    return masks


def _grid(frame: Frame, rows: slice, columns: slice) -> torch.Tensor:
    """Where the centres of the photograph's pixels lie in the tensor, as `grid_sample` counts."""

    def axis(pixels: slice, side: int, first: int, shown: int, whole: int) -> torch.Tensor:
        centres = torch.arange(pixels.start, pixels.stop) + 0.5
        return (centres * (shown / side) + first) / whole * 2 - 1

    (height, width), (top, left, shown_rows, shown_columns) = frame.original, frame.window
    y = axis(rows, height, top, shown_rows, frame.given[0])
    x = axis(columns, width, left, shown_columns, frame.given[1])
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
