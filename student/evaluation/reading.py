"""Photographs and their ground truth, read and decoded by workers while the network is at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcli.common.errors import DevkitError
from kdcli.common.workers import read_batches, worker_options
from kdcli.student.data.geometry import Transform, UInt8Array
from kdcli.student.data.tables import mapped
from kdcli.student.tasks.registry import TASKS
from kdcli.student.tasks.task import Task
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import is_jpeg, read_picture
from kdcli.voc.jpeg import Photograph


@dataclass(frozen=True, eq=False)
class Read:
    """What is known of one image.

    Attributes:
        name: Its name; of a devkit's, its id.
        image: (S, S, 3) uint8, resized as a whole.
        size: (height, width) of the photograph.
        true: Its ground truth by task, if that was asked for.
    """

    name: str
    image: UInt8Array
    size: tuple[int, int]
    true: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Which image cannot be read, and why: handed over, as an error would end its worker."""

    name: str
    why: DevkitError


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch: the images that could be read, and why others could not.

    Attributes:
        names: Of the images that could be read.
        images: (B, 3, S, S) uint8, channels last.
        sizes: (height, width) of each photograph.
        true: Their ground truth as each task gathers it, if it was asked for.
        failures: The others.
    """

    names: list[str]
    images: Tensor
    sizes: list[tuple[int, int]]
    true: Mapping[str, Any]
    failures: list[Failed]

    def pin_memory(self) -> Inputs:
        """Return it in page-locked memory, from where a GPU copies while it computes."""
        true = mapped(self.true, Tensor.pin_memory)
        return replace(self, images=self.images.pin_memory(), true=true)


@dataclass(frozen=True)
class Truth:
    """Reads the ground truth of a devkit's images; ``folder`` holds the class masks."""

    devkit: Devkit
    folder: str
    tasks: Sequence[Task]

    def of(self, image_id: str, size: tuple[int, int]) -> dict[str, Any]:
        """Return that of an image of that ``size``, by task.

        Raises:
            DevkitError: It cannot be read.
            StudentError: A task needs some, and there is none.
        """
        return {
            task.name: task.truth(self.devkit, self.folder, image_id, size) for task in self.tasks
        }


class _Photographs(Dataset[Read | Failed]):
    """(name, file) of images, and where their ground truth is, if that is to be read, too."""

    def __init__(
        self, images: Sequence[tuple[str, Path]], side: int, truth: Truth | None = None
    ) -> None:
        self.images = images
        self.side = side
        self.truth = truth

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Read | Failed:
        name, path = self.images[index]
        try:
            image, size = self._photograph(path)
            if self.truth is None:
                return Read(name, image, size)
            return Read(name, image, size, self.truth.of(name, size))
        except DevkitError as error:
            return Failed(name, error)

    def _photograph(self, path: Path) -> tuple[UInt8Array, tuple[int, int]]:
        if self.truth is None and not is_jpeg(path):  # a devkit's are JPEGs
            picture = read_picture(path)
            return resized(picture, self.side), (picture.shape[0], picture.shape[1])
        photograph = Photograph.open(path)
        size = photograph.height, photograph.width
        transform = Transform.whole(*size, self.side)
        return transform.image(photograph.decode(transform.reduction)), size


def resized(image: UInt8Array, side: int) -> UInt8Array:
    """Return a picture (H, W, 3) resized as a whole to a square."""
    height, width = image.shape[:2]
    return Transform.whole(height, width, side).image(image)


def read_inputs(
    images: Sequence[tuple[str, Path]],
    side: int,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
    truth: Truth | None = None,
) -> Iterator[Inputs]:
    """Return batches of images, in order; the workers start before this returns.

    Args:
        images: (name, file) of photographs.
        side: Of the network's square.
        batch_size: Images of a batch.
        workers: Processes that read; 0 reads in this one.
        pin_memory: Whether a GPU will copy the batches.
        truth: Where the ground truth is, if it is to be read, too.

    Raises:
        StudentError: An image lacks the ground truth that a task needs.
        ResourceError: The system refuses what workers need.
    """
    loader = DataLoader(
        cast("Dataset[Inputs]", _Photographs(images, side, truth)),
        batch_size=batch_size,
        collate_fn=collate,
        pin_memory=pin_memory,
        **worker_options(min(workers, -(-len(images) // batch_size))),
    )
    return read_batches(loader, "--workers or runtime.workers")


def collate(samples: Sequence[Read | Failed]) -> Inputs:
    """Put a batch together."""
    good = [sample for sample in samples if isinstance(sample, Read)]
    images = np.stack([read.image for read in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    tasks = good[0].true if good else ()
    return Inputs(
        names=[read.name for read in good],
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        sizes=[read.size for read in good],
        true={name: TASKS[name].gather([read.true[name] for read in good]) for name in tasks},
        failures=[sample for sample in samples if isinstance(sample, Failed)],
    )
