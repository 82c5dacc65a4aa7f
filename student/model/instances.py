"""Instance masks as sums of prototypes (YOLACT, Bolya et al., arXiv 1904.02689).

The finest of the decoder's maps gives k prototypes; every anchor has k coefficients. A mask is the
sigmoid of the prototypes' sum, weighted by the coefficients, cropped by the box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcli.common.detections import Detections

_HIDDEN = 4
"""Channels before the prototypes, for each of them."""


class InstanceOutput(NamedTuple):
    """What the network says about the masks of a batch: A anchors, k prototypes, s their side.

    Attributes:
        prototypes: (B, k, s, s).
        coefficients: (B, A, k), within -1..1.
    """

    prototypes: Tensor
    coefficients: Tensor


class InstanceHead(nn.Module):
    """Prototypes of the finest map, and the coefficients of every map's anchors.

    As in YOLACT coefficients are within -1..1, so that a prototype can be taken away from others,
    and all maps share what makes them. Unlike there, for a fraction of the cost, prototypes are
    made of few channels and have the finest map's side, and a cell's coefficients are made of that
    cell alone, which the decoder has shown its surroundings; and there is no ReLU behind the
    prototypes: of so few none may die (a tiny network's masks then hardly learned at all).
    """

    def __init__(self, inputs: int, per_cell: int, prototypes: int) -> None:
        super().__init__()
        self.count, hidden = prototypes, _HIDDEN * prototypes
        self.prototypes = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, prototypes, 3, padding=1),
        )
        self.coefficients = nn.Linear(inputs, per_cell * prototypes)

    def forward(self, maps: Sequence[Tensor]) -> InstanceOutput:
        """Maps (B, inputs, s, s), finest first -> prototypes, and coefficients by anchor."""
        cells = torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
        found = self.coefficients(cells).reshape(cells.shape[0], -1, self.count)  # as anchors go
        return InstanceOutput(self.prototypes(maps[0]), found.tanh())


@dataclass(frozen=True, eq=False)
class MaskedDetections(Detections):
    """Detections with masks, as the network said them: full-size masks are made when asked for.

    Attributes:
        coefficients: (n, k) float32.
        prototypes: (k, s, s) float32 over the whole image.
        size: (height, width) of the image.
    """

    coefficients: NDArray[np.float32]
    prototypes: NDArray[np.float32]
    size: tuple[int, int]

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the instances that ``rows`` (indices or a mask) names."""
        return replace(super().take(rows), coefficients=self.coefficients[rows])

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks, (height, width) bool each.

        The sum is read bilinearly at the centres of the image's pixels, and its sigmoid is at least
        .5 where it is not negative; a mask lies within the pixels that its box touches.
        """
        height, width = self.size
        down = _readings(height, self.prototypes.shape[1])
        across = _readings(width, self.prototypes.shape[2])
        for box, weights in zip(self.boxes, self.coefficients, strict=True):
            rows, columns = _touched(box[1::2], height), _touched(box[0::2], width)
            logits = np.tensordot(weights, self.prototypes, axes=1)
            mask = np.zeros(self.size, np.bool_)
            mask[rows, columns] = _read(_read(logits, down, rows).T, across, columns).T >= 0
            yield mask


_Readings = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]


def _readings(pixels: int, cells: int) -> _Readings:
    """Where the centres of pixels lie among those of cells: the two beside, and how far on."""
    place = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5).clip(0, cells - 1)
    low = np.floor(place).astype(np.intp)
    return low, np.minimum(low + 1, cells - 1), (place - low).astype(np.float32)


def _read(values: NDArray[np.float32], readings: _Readings, pixels: slice) -> NDArray[np.float32]:
    """Interpolate the rows of values (s, ...) at some pixels."""
    low, high, share = (each[pixels] for each in readings)
    interpolated: NDArray[np.float32] = values[low] + share[:, None] * (values[high] - values[low])
    return interpolated


def _touched(sides: NDArray[np.float32], length: int) -> slice:
    """Return the pixels of an axis that a box from the first to the second of ``sides`` touches."""
    first = max(int(np.floor(sides[0])), 0)
    return slice(first, max(min(int(np.ceil(sides[1])), length), first))
