"""Padded tables of a batch: boxes, masks over boxes, maps; and how anything of a batch is moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from kdcli.cache.format.record import InstanceMasks
from kdcli.common.detections import Detections

PADDING = -1
"""In an index map: the pixel lies beyond the image, and teaches nothing."""
FEW_BOXES = 16
"""A size of padded tables; the others are 4, 16 ... times this."""


def mapped(part: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return dataclasses, dictionaries and named tuples, nested or not, with tensors replaced."""
    if isinstance(part, Tensor):
        return function(part)
    if isinstance(part, Mapping):
        return {name: mapped(value, function) for name, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(mapped(value, function) for value in part))
    if is_dataclass(part) and not isinstance(part, type):
        own = {each.name: mapped(getattr(part, each.name), function) for each in fields(part)}
        return replace(part, **own)
    return part


@dataclass(frozen=True)
class BoxTable:
    """Boxes of a batch: boxes (B, M, 4), labels (B, M), 0 for padding, confidences (B, M)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    @classmethod
    def stacked(cls, samples: Sequence[Detections]) -> BoxTable:
        """Stack the boxes of samples, padded to the longest."""
        longest = max(len(sample.labels) for sample in samples)
        boxes = np.zeros((len(samples), longest, 4), np.float32)
        labels = np.zeros((len(samples), longest), np.int64)
        scores = np.zeros((len(samples), longest), np.float32)
        for row, sample in enumerate(samples):
            count = len(sample.labels)
            boxes[row, :count] = sample.boxes
            labels[row, :count] = sample.labels
            scores[row, :count] = sample.scores
        return cls(*(torch.from_numpy(array) for array in (boxes, labels, scores)))

    def padded(self) -> BoxTable:
        """Return the table with more padding: its length then is one of a few."""
        count, size = self.labels.shape[1], FEW_BOXES
        while size < count:
            size *= 4
        more = size - count
        return BoxTable(
            F.pad(self.boxes, (0, 0, 0, more)),
            F.pad(self.labels, (0, more)),
            F.pad(self.scores, (0, more)),
        )


@dataclass(frozen=True)
class InstanceTable:
    """Instances of a batch: masks (B, N, 28, 28) uint8 over the boxes of ``found`` (B, N, ...)."""

    masks: Tensor
    found: BoxTable

    @classmethod
    def stacked(cls, samples: Sequence[InstanceMasks]) -> InstanceTable:
        """Stack the instances of samples, padded to the most."""
        found = BoxTable.stacked(samples)
        masks = np.zeros((*found.labels.shape, 28, 28), np.uint8)
        for row, sample in zip(masks, samples, strict=True):
            row[: len(sample.masks)] = sample.masks
        return cls(torch.from_numpy(masks), found)


def stacked_palettes(palettes: Sequence[npt.NDArray[np.float32]]) -> Tensor:
    """Stack label vectors (k, C) as (B, K, C), padded with zeros to the longest."""
    rows = max(map(len, palettes))
    stacked = np.zeros((len(palettes), rows, palettes[0].shape[1]), np.float32)
    for row, palette in zip(stacked, palettes, strict=True):
        row[: len(palette)] = palette
    return torch.from_numpy(stacked)


def stacked_maps(maps: Sequence[npt.NDArray[np.generic]]) -> Tensor:
    """Stack maps (h, w) as (B, H, W) int32; smaller ones go on with their last row and column."""
    height, width = (max(sizes) for sizes in zip(*(each.shape for each in maps), strict=True))
    stacked = np.empty((len(maps), height, width), np.int32)
    for out, each in zip(stacked, maps, strict=True):
        rows, columns = each.shape
        out[:rows, :columns] = each
        out[:rows, columns:] = out[:rows, columns - 1 : columns]
        out[rows:] = out[rows - 1]
    return torch.from_numpy(stacked)
