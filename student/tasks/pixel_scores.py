"""Intersection over union of a list: pixels are counted where the label maps are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcli.student.tasks.task import Scoring
from kdcli.voc.metrics import (
    SegmentationResult,
    count_objects,
    frequent_classes,
    intersection_over_union,
)


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
        size = classes * (classes + 1)
        # The shortest integers that can name a cell: of 32 bits they take twice as long on a CPU.
        rows = rows.to(torch.int16 if size <= 2**15 else torch.int32)
        cells = torch.bincount(rows * classes + said, minlength=size)
        self.counts += cells[: classes**2].view(classes, classes)
        self.images += len(maps)


@dataclass(frozen=True)
class TrueMasks:
    """Class masks of a batch.

    Attributes:
        images: The places of the images that have one.
        pixels: (n,) uint8, all pixels of these masks, one mask after the other: one piece of memory
            to hand over, whatever the sizes.
    """

    images: list[int]
    pixels: Tensor


class PixelScorer:
    """Intersection over union, over the images of a list that have a class mask."""

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.counts = PixelCounts(len(scoring.devkit.labels.all_names), scoring.device)

    def update(
        self,
        names: Sequence[str],
        decoded: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        true: TrueMasks,
    ) -> Callable[[], None]:
        """See `Scorer`; nothing of the pixels leaves the device."""
        self.counts.update([decoded[place] for place in true.images], true.pixels)
        return lambda: None

    @property
    def found(self) -> tuple[npt.NDArray[np.int64], int]:
        """See `Scorer`: pixels by true and predicted class, and how many masks they are of."""
        return self.counts.counts.cpu().numpy(), self.counts.images

    def result(
        self, found: Sequence[tuple[npt.NDArray[np.int64], int]], earlier: Mapping[str, Any]
    ) -> SegmentationResult | None:
        """See `Scorer`."""
        if not sum(masks for _, masks in found):
            return None
        names = self.scoring.devkit.labels.all_names
        counts = np.sum([own for own, _ in found], axis=0)
        boxes = earlier.get("detection")
        frequent = self._frequent() if boxes is None else boxes.frequent_classes
        return intersection_over_union(counts, frequent, names)

    def _frequent(self) -> tuple[str, ...]:
        """The classes with many objects among the boxes that there are."""
        devkit = self.scoring.devkit
        every = (devkit.annotation(image_id) for image_id in self.scoring.image_ids)
        known = [each for each in every if each is not None]
        return frequent_classes(count_objects(known, devkit.labels.all_names))
