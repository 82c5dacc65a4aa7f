"""A student applied to photographs: boxes and a label map of each, in the photograph's pixels."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcli.common.detections import Detections
from kdcli.common.errors import DevkitError
from kdcli.common.workers import read_batches, worker_options
from kdcli.student.data.geometry import Transform, UInt8Array
from kdcli.student.evaluation.engine import Engine
from kdcli.voc.images import is_jpeg, read_picture
from kdcli.voc.jpeg import Photograph


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a student says about one image.

    Attributes:
        image_id: Its name.
        detections: Boxes in pixels of the original image, the most confident first.
        class_map: (H, W) uint8 class ids, 0 background.
    """

    image_id: str
    detections: Detections
    class_map: UInt8Array


_Sample = tuple[UInt8Array, tuple[int, int]] | DevkitError


@dataclass(frozen=True)
class _Inputs:
    """A batch: the images that could be read with their sizes, and what kept the others from it."""

    images: Tensor
    sizes: list[tuple[int, int]]
    failures: list[DevkitError | None]


class _Photographs(Dataset[_Sample]):
    """Resized photographs; an error is handed over, as one raised in a worker would end it."""

    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths = paths
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> _Sample:
        try:
            return self._read(self.paths[index])
        except DevkitError as error:
            return error

    def _read(self, path: Path) -> _Sample:
        if is_jpeg(path):
            photograph = Photograph.open(path)
            size = photograph.height, photograph.width
            transform = Transform.whole(*size, self.side)
            return transform.image(photograph.decode(transform.reduction)), size
        return _resized(read_picture(path), self.side)


def _resized(image: UInt8Array, side: int) -> tuple[UInt8Array, tuple[int, int]]:
    height, width = image.shape[:2]
    return Transform.whole(height, width, side).image(image), (height, width)


def infer(
    engine: Engine,
    images: Sequence[tuple[str, Path]],
    failed: MutableMapping[str, str] | None = None,
) -> Iterator[Prediction]:
    """Yield the prediction of each of the (name, file), in order.

    Each image is resized as a whole to the network's square.

    Args:
        engine: The network, and how it is to be asked.
        images: Photographs of any format of Pillow's, JPEG as the devkit's, whatever their ending.
        failed: Takes the names of those that cannot be read, and why; they are left out.

    Raises:
        DevkitError: A photograph cannot be read, and ``failed`` is not given.
    """
    paths = [path for _, path in images]
    loader = DataLoader(
        cast("Dataset[_Inputs]", _Photographs(paths, engine.config.input_size)),
        batch_size=engine.settings.batch_size,
        collate_fn=_collate,
        **worker_options(min(engine.settings.workers, len(paths))),
    )
    names = iter(name for name, _ in images)
    for inputs in read_batches(loader, "--workers or runtime.workers"):
        good = _readable(inputs, names, failed)
        if good:
            yield from _predict(engine, inputs, good)


def infer_arrays(engine: Engine, images: Sequence[UInt8Array]) -> list[Prediction]:
    """Return the predictions of images that are there already, as `infer` does of files.

    Args:
        engine: The network, and how it is to be asked; its ``workers`` play no part.
        images: (H, W, 3) uint8 RGB each, of any sizes.

    Raises:
        ValueError: An image of another shape or type.
    """
    side, found = engine.config.input_size, []
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"expected images (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}"
            )
    at_once = engine.settings.batch_size
    for first in range(0, len(images), at_once):
        samples = [_resized(image, side) for image in images[first : first + at_once]]
        names = [str(first + n) for n in range(len(samples))]
        found += _predict(engine, _collate(samples), names)
    return found


def _readable(
    inputs: _Inputs, names: Iterator[str], failed: MutableMapping[str, str] | None
) -> list[str]:
    """Return the names of a batch's images; note those that could not be read, or raise why."""
    good = []
    for failure, name in zip(inputs.failures, names, strict=False):  # takes no name too many
        if failure is None:
            good.append(name)
        elif failed is None:
            raise failure
        else:
            failed[name] = str(failure)
    return good


def _predict(engine: Engine, inputs: _Inputs, names: Sequence[str]) -> list[Prediction]:
    found = engine(inputs.images, inputs.sizes)
    return [Prediction(name, *each) for name, each in zip(names, found, strict=True)]


def _collate(samples: Sequence[_Sample]) -> _Inputs:
    failures = [sample if isinstance(sample, DevkitError) else None for sample in samples]
    good = [sample for sample in samples if not isinstance(sample, DevkitError)]
    images = np.stack([image for image, _ in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    sizes = [size for _, size in good]
    return _Inputs(torch.from_numpy(images).permute(0, 3, 1, 2), sizes, failures)
