"""A batch on its way to the device: uint8 images, and what each task has of every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcli.student.data.assignment import tasks_learned
from kdcli.student.data.geometry import FloatArray, UInt8Array
from kdcli.student.data.tables import mapped


@dataclass(frozen=True)
class Sample:
    """One augmented training image with what it learns from, S the input's side.

    Attributes:
        image_id: Which image.
        image: (S, S, 3) uint8 RGB.
        parts: What each task learns from, by its name; of a type with a ``collate``.
        weights: Of the losses, by term (`student.data.targets.terms_of`).
        jitter: (5,) float32, see ``draw_color_jitter``.
    """

    image_id: str
    image: UInt8Array
    parts: Mapping[str, Any]
    weights: Mapping[str, float]
    jitter: FloatArray


@dataclass(frozen=True)
class Batch:
    """B samples.

    Attributes:
        image_ids: B ids.
        images: (B, 3, S, S) uint8 RGB, channels last in memory.
        parts: What each task learns from, by its name: dataclasses of tensors.
        weights: (B, T) float32, in the order of ``fractions``.
        jitter: (B, 5) float32; stays on the host (see ``jitter.distort``).
        fractions: Of each term, the fraction of the batch's images that learn it.
        learners: Of each task, how many of the images learn it, from whomever.
    """

    image_ids: tuple[str, ...]
    images: Tensor
    parts: Mapping[str, Any]
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
            parts=mapped(self.parts, function),
            weights=function(self.weights),
            jitter=function(self.jitter),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch."""
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    weights = np.array([list(sample.weights.values()) for sample in samples], np.float32)
    first = samples[0]
    return Batch(
        image_ids=tuple(sample.image_id for sample in samples),
        images=images.permute(0, 3, 1, 2),
        parts={
            task: part.collate([sample.parts[task] for sample in samples])
            for task, part in first.parts.items()
        },
        weights=torch.from_numpy(weights),
        jitter=torch.from_numpy(np.stack([sample.jitter for sample in samples])),
        fractions=dict(zip(first.weights, (weights > 0).mean(axis=0).tolist(), strict=True)),
        learners=dict(zip(first.parts, tasks_learned(weights).sum(axis=0).tolist(), strict=True)),
    )
