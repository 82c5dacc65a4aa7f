"""A student applied to photographs: boxes and a label map of each, in the photograph's pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cache.workers import worker_options
from student.config import RunConfig
from student.errors import StudentError
from student.model.blitznet import BlitzNet, normalise
from student.model.decode import DetectionLimits, detect, segment
from student.steps import read_batches
from student.transforms import Transform, UInt8Array
from voc.evaluation import Detections
from voc.photograph import Photograph
from voc.pictures import read_photograph

JPEG_ENDINGS = (".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a student says about one image.

    Attributes:
        image_id: Its name.
        detections: Boxes in pixels of the original image, the most confident first.
        label_map: (H, W) uint8 class ids, 0 background.
    """

    image_id: str
    detections: Detections
    label_map: UInt8Array


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


@dataclass(frozen=True)
class _Inputs:
    images: Tensor
    sizes: list[tuple[int, int]]


class _Photographs(Dataset[tuple[UInt8Array, tuple[int, int]]]):
    def __init__(self, paths: Sequence[Path], side: int) -> None:
        self.paths = paths
        self.side = side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[UInt8Array, tuple[int, int]]:
        path = self.paths[index]
        if path.suffix.lower() in JPEG_ENDINGS:
            photograph = Photograph.open(path)
            size = photograph.height, photograph.width
            transform = Transform.whole(*size, self.side)
            return transform.image(photograph.decode(transform.reduction)), size
        image = read_image(path)
        height, width = image.shape[:2]
        return Transform.whole(height, width, self.side).image(image), (height, width)


def read_image(path: Path) -> UInt8Array:
    """Read a photograph as (H, W, 3) uint8 RGB; any format of Pillow's, JPEG as the devkit does.

    Raises:
        StudentError or DevkitError: No such file, or no image.
    """
    if path.suffix.lower() in JPEG_ENDINGS:
        return read_photograph(path)
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise StudentError(f"Cannot read the image {path}: {error}") from error


def infer(
    model: BlitzNet, images: Sequence[tuple[str, Path]], settings: InferenceSettings
) -> Iterator[Prediction]:
    """Yield the prediction of each of the (name, file), in order.

    Each image is resized as a whole to the network's square. The model runs where it is, in
    evaluation mode.
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
            yield from _predict(model, inputs, names, settings)
    finally:
        model.train(was_training)


@torch.no_grad()
def _predict(
    model: BlitzNet, inputs: _Inputs, names: Iterator[str], settings: InferenceSettings
) -> list[Prediction]:
    device = model.anchors.device
    images = normalise(inputs.images.to(device, non_blocking=True))
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        output = model(images)
    found = detect(output, model.anchors, inputs.sizes, settings.limits)
    return [
        Prediction(
            next(names),
            Detections(
                boxes=detections.boxes.cpu().numpy(),
                labels=detections.labels.cpu().numpy(),
                confidences=detections.confidences.cpu().numpy(),
            ),
            segment(logits, size).cpu().numpy(),
        )
        for detections, logits, size in zip(found, output.segmentation, inputs.sizes, strict=True)
    ]


def _collate(samples: Sequence[tuple[UInt8Array, tuple[int, int]]]) -> _Inputs:
    images = torch.from_numpy(np.stack([image for image, _ in samples]))
    return _Inputs(images.permute(0, 3, 1, 2), [size for _, size in samples])
