"""A student applied to photographs: boxes and a label map of each, in the photograph's pixels."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdcli.common.detections import Detections
from kdcli.common.errors import DevkitError
from kdcli.common.workers import read_batches, worker_options
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.geometry import Transform, UInt8Array
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.decode import DetectionLimits, detect, segment
from kdcli.student.model.preprocessing import normalise
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


@dataclass(frozen=True)
class InferenceSettings:
    """How inference is carried out.

    Attributes:
        batch_size: Images at once.
        workers: Processes that read and resize images; 0 reads them in this one.
        bf16: Whether the network runs under bfloat16 autocast.
        limits: Which boxes survive.
    """

    batch_size: int = 16
    workers: int = 0
    bf16: bool = False
    limits: DetectionLimits = field(default_factory=DetectionLimits)

    @classmethod
    def of_run(
        cls, config: RunConfig, batch_size: int | None = None, bf16: bool | None = None
    ) -> InferenceSettings:
        """Return what a run's configuration says, but for what is given."""
        return cls(
            batch_size=config.evaluation.batch_size if batch_size is None else batch_size,
            workers=config.runtime.workers,
            bf16=config.optim.bf16 if bf16 is None else bf16,
        )


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
    model: BlitzNet,
    images: Sequence[tuple[str, Path]],
    settings: InferenceSettings,
    failed: MutableMapping[str, str] | None = None,
) -> Iterator[Prediction]:
    """Yield the prediction of each of the (name, file), in order.

    Each image is resized as a whole to the network's square. The model runs where it is, in
    evaluation mode.

    Args:
        model: The network.
        images: Photographs of any format of Pillow's, JPEG as the devkit's, whatever their ending.
        settings: How.
        failed: Takes the names of those that cannot be read, and why; they are left out.

    Raises:
        DevkitError: A photograph cannot be read, and ``failed`` is not given.
    """
    paths = [path for _, path in images]
    loader = DataLoader(
        cast("Dataset[_Inputs]", _Photographs(paths, model.config.input_size)),
        batch_size=settings.batch_size,
        collate_fn=_collate,
        **worker_options(min(settings.workers, len(paths))),
    )
    names = iter(name for name, _ in images)
    was_training = model.training
    model.eval()
    try:
        for inputs in read_batches(loader, "--workers or runtime.workers"):
            good = _readable(inputs, names, failed)
            if good:
                yield from _predict(model, inputs, good, settings)
    finally:
        model.train(was_training)


def infer_arrays(
    model: BlitzNet, images: Sequence[UInt8Array], settings: InferenceSettings
) -> list[Prediction]:
    """Return the predictions of images that are there already, as `infer` does of files.

    Args:
        model: The network.
        images: (H, W, 3) uint8 RGB each, of any sizes.
        settings: How; ``workers`` play no part.

    Raises:
        ValueError: An image of another shape or type.
    """
    side, found = model.config.input_size, []
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(
                f"expected images (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}"
            )
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(images), settings.batch_size):
            some = images[first : first + settings.batch_size]
            samples = [_resized(image, side) for image in some]
            names = [str(first + n) for n in range(len(some))]
            found += _predict(model, _collate(samples), names, settings)
    finally:
        model.train(was_training)
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


@torch.no_grad()
def _predict(
    model: BlitzNet, inputs: _Inputs, names: Sequence[str], settings: InferenceSettings
) -> list[Prediction]:
    device = model.anchors.device
    images = normalise(inputs.images.to(device, non_blocking=True), model.config)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        output = model(images)
    found = detect(output, model.anchors, inputs.sizes, settings.limits)
    return [
        Prediction(name, detections, segment(logits, size).cpu().numpy())
        for name, detections, logits, size in zip(
            names, found, output.segmentation, inputs.sizes, strict=True
        )
    ]


def _collate(samples: Sequence[_Sample]) -> _Inputs:
    failures = [sample if isinstance(sample, DevkitError) else None for sample in samples]
    good = [sample for sample in samples if not isinstance(sample, DevkitError)]
    images = np.stack([image for image, _ in good]) if good else np.zeros((0, 1, 1, 3), np.uint8)
    sizes = [size for _, size in good]
    return _Inputs(torch.from_numpy(images).permute(0, 3, 1, 2), sizes, failures)
