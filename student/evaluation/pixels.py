"""Pixels counted by true and predicted class where the label maps are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PixelCounts:
    """The counts of ``voc.metrics.ConfusionMatrix``, on a device and in integers: exactly those.

    Args:
        classes: How many classes there are, with the background.
        device: Where the label maps are.

    Attributes:
        images: How many were counted.
        counts: (classes, classes) int64, rows are the true classes, columns the predicted ones.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.images = 0
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def update(self, maps: Sequence[Tensor], true: Tensor) -> None:
        """Count images.

        Args:
            maps: Predicted class ids of each image, uint8, on the device.
            true: (n,) uint8 class ids of all their pixels, one image after the other, or 255 where
                nothing counts; on any device.
        """
        if not maps:
            return
        classes = len(self.counts)
        said = torch.cat([each.flatten() for each in maps])
        rows = true.to(said.device, non_blocking=True).clamp(max=classes)  # one row for all void
        cells = torch.bincount(rows.int() * classes + said, minlength=classes * (classes + 1))
        self.counts += cells[: classes**2].view(classes, classes)
        self.images += len(maps)
