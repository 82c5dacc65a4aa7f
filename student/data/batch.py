"""A batch on its way to the device: uint8 images and maps, and small tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcli.cache.format.record import InstanceMasks
from kdcli.common.detections import Detections
from kdcli.student.data.assignment import TASKS, tasks_learned
from kdcli.student.data.geometry import FloatArray, UInt8Array
from kdcli.student.data.targets import TERMS

PADDING = -1
"""In an index map: the pixel lies beyond the image, and teaches nothing."""


@dataclass(frozen=True)
class Sample:
    """One augmented training image with what it learns from, S the input's side, s the maps'.

    Attributes:
        image_id: Which image.
        image: (S, S, 3) uint8 RGB.
        gt: Ground truth boxes, all of score 1; these and the other boxes relative to the sample.
        tutor: The detection tutor's boxes.
        confirming: Boxes that may confirm what the segmentation tutor says, reaching outside the
            sample where the crop cut them; None if there is nobody to ask.
        instances: The segmentation tutor's own masks, for soft targets: mirrored with the sample,
            their boxes reaching outside it where the crop cut them.
        mask: (s, s) uint8 class ids, 255 where nothing is to be learned.
        index_map: (s, s) whole numbers, the row of ``palette`` for each pixel, or `PADDING`; of a
            dense tutor (h, w) cells.
        placement: (8,) float32, where the sample lies among a dense tutor's cells
            (`student.data.grid`); None with other tutors.
        palette: (k, C) float32 label vectors.
        weights: (4,) float32, of the losses in the order of ``TERMS``.
        jitter: (5,) float32, see ``draw_color_jitter``.
    """

    image_id: str
    image: UInt8Array
    gt: Detections
    tutor: Detections
    confirming: Detections | None
    instances: InstanceMasks
    mask: UInt8Array
    index_map: npt.NDArray[np.generic]
    placement: FloatArray | None
    palette: FloatArray
    weights: FloatArray
    jitter: FloatArray


@dataclass(frozen=True)
class BoxTable:
    """Boxes of a batch: boxes (B, M, 4), labels (B, M), 0 for padding, confidences (B, M)."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor

    def apply(self, function: Callable[[Tensor], Tensor]) -> BoxTable:
        """Return the table with every tensor replaced."""
        return BoxTable(*(function(x) for x in (self.boxes, self.labels, self.scores)))


@dataclass(frozen=True)
class InstanceTable:
    """Instances of a batch: masks (B, N, 28, 28) uint8 over the boxes of ``found`` (B, N, ...)."""

    masks: Tensor
    found: BoxTable

    def apply(self, function: Callable[[Tensor], Tensor]) -> InstanceTable:
        """Return the table with every tensor replaced."""
        return InstanceTable(function(self.masks), self.found.apply(function))


@dataclass(frozen=True)
class Batch:
    """B samples.

    Attributes:
        image_ids: B ids.
        images: (B, 3, S, S) uint8 RGB, channels last in memory.
        gt: Ground truth boxes.
        tutor: Tutor boxes.
        confirming: Boxes that may confirm the segmentation tutor; see ``Sample``.
        confirmable: (B,) bool, whether there are such boxes to ask, be it none.
        instances: The segmentation tutor's own masks.
        masks: (B, s, s) uint8.
        index_maps: (B, s, s) int32, rows of the palettes or `PADDING`; of a dense tutor (B, h, w)
            cells, the last ones of each repeated as padding.
        placements: (B, 8) float32, of a dense tutor's cells; None with other tutors.
        palettes: (B, K, C) float32, C classes, padded with zeros.
        weights: (B, 4) float32 in the order of ``TERMS``.
        jitter: (B, 5) float32; stays on the host (see ``jitter.distort``).
        fractions: Of each of ``TERMS``, the fraction of the batch's images that learn it.
        learners: Of each of ``TASKS``, how many of the images learn it, from whomever.
    """

    image_ids: tuple[str, ...]
    images: Tensor
    gt: BoxTable
    tutor: BoxTable
    confirming: BoxTable
    confirmable: Tensor
    instances: InstanceTable
    masks: Tensor
    index_maps: Tensor
    placements: Tensor | None
    palettes: Tensor
    weights: Tensor
    jitter: Tensor
    fractions: dict[str, float]
    learners: dict[str, int]

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device) -> Batch:
        """Copy everything but ``jitter`` to a device; asynchronously from pinned memory."""
        moved = self._apply(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, jitter=self.jitter)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; the DataLoader calls this."""
        return self._apply(Tensor.pin_memory)

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            images=function(self.images),
            gt=self.gt.apply(function),
            tutor=self.tutor.apply(function),
            confirming=self.confirming.apply(function),
            confirmable=function(self.confirmable),
            instances=self.instances.apply(function),
            masks=function(self.masks),
            index_maps=function(self.index_maps),
            placements=None if self.placements is None else function(self.placements),
            palettes=function(self.palettes),
            weights=function(self.weights),
            jitter=function(self.jitter),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch; boxes and palettes are padded to the longest."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    rows = max(len(sample.palette) for sample in samples)
    palettes = np.zeros((len(samples), rows, samples[0].palette.shape[1]), np.float32)
    for row, sample in zip(palettes, samples, strict=True):
        row[: len(sample.palette)] = sample.palette
    weights = np.stack([sample.weights for sample in samples])
    return Batch(
        image_ids=tuple(sample.image_id for sample in samples),
        images=images.permute(0, 3, 1, 2),
        gt=_pad([sample.gt for sample in samples]),
        tutor=_pad([sample.tutor for sample in samples]),
        confirming=_pad([sample.confirming or Detections.none() for sample in samples]),
        confirmable=torch.tensor([sample.confirming is not None for sample in samples]),
        instances=_pad_instances([sample.instances for sample in samples]),
        masks=torch.from_numpy(np.stack([sample.mask for sample in samples])),
        index_maps=torch.from_numpy(_stack_maps([sample.index_map for sample in samples])),
        placements=_stack_placements([sample.placement for sample in samples]),
        palettes=torch.from_numpy(palettes),
        weights=torch.from_numpy(weights),
        jitter=torch.from_numpy(np.stack([sample.jitter for sample in samples])),
        fractions=dict(zip(TERMS, (weights > 0).mean(axis=0).tolist(), strict=True)),
        learners=dict(zip(TASKS, tasks_learned(weights).sum(axis=0).tolist(), strict=True)),
    )


def _stack_maps(maps: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.int32]:
    """Stack maps; smaller ones go on with their last row and column."""
    height, width = (max(sizes) for sizes in zip(*(each.shape for each in maps), strict=True))
    stacked = np.empty((len(maps), height, width), np.int32)
    for out, each in zip(stacked, maps, strict=True):
        rows, columns = each.shape
        out[:rows, :columns] = each
        out[:rows, columns:] = out[:rows, columns - 1 : columns]
        out[rows:] = out[rows - 1]
    return stacked


def _stack_placements(placements: Sequence[FloatArray | None]) -> Tensor | None:
    given = [each for each in placements if each is not None]
    return torch.from_numpy(np.stack(given)) if given else None


def _pad(samples: Sequence[Detections]) -> BoxTable:
    longest = max(len(sample.labels) for sample in samples)
    boxes = np.zeros((len(samples), longest, 4), np.float32)
    labels = np.zeros((len(samples), longest), np.int64)
    scores = np.zeros((len(samples), longest), np.float32)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count] = sample.boxes
        labels[row, :count] = sample.labels
        scores[row, :count] = sample.scores
    return BoxTable(*(torch.from_numpy(array) for array in (boxes, labels, scores)))


def _pad_instances(samples: Sequence[InstanceMasks]) -> InstanceTable:
    found = _pad(samples)
    masks = np.zeros((*found.labels.shape, 28, 28), np.uint8)
    for row, sample in zip(masks, samples, strict=True):
        row[: len(sample.masks)] = sample.masks
    return InstanceTable(torch.from_numpy(masks), found)
