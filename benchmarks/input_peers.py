"""What others use to prepare a detector's training samples, as their documentation shows it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from kdcli.student.data.dataset import StudentDataset
from kdcli.student.data.geometry import MEAN_COLOUR

SIDE = 300
Peer = Callable[[StudentDataset], Callable[[int], object]]


def torchvision_sample(dataset: StudentDataset) -> Callable[[int], object]:
    """SSD's pipeline of torchvision's reference scripts with the v2 transforms; no masks."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=list(MEAN_COLOUR)),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((SIDE, SIDE), antialias=True),
            v2.ToDtype(torch.float, scale=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    torch.manual_seed(0)

    def sample(index: int) -> object:
        image_id = dataset.rows[index].image_id
        image = Image.open(dataset.devkit.image_path(image_id)).convert("RGB")
        boxes, labels = dataset.readers["detection"].truth.of(image_id)
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format="XYXY", canvas_size=(image.height, image.width)
            ),
            "labels": torch.from_numpy(labels),
        }
        return transform(image, target)

    return sample


def albumentations_sample(dataset: StudentDataset, whole: bool) -> Callable[[int], object]:
    """Jitter, a crop that keeps the boxes, flip; no zoom-out.

    With ``whole`` all that a sample of ours has: the mask, the tutor's label map and its boxes.
    """
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    transform = A.Compose(
        [
            A.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.07, p=1),
            A.RandomSizedBBoxSafeCrop(SIDE, SIDE),
            A.HorizontalFlip(),
        ],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]),
        seed=0,
    )

    def sample(index: int) -> object:
        image_id = dataset.rows[index].image_id
        path = str(dataset.devkit.image_path(image_id))
        image = cv2.cvtColor(np.asarray(cv2.imread(path)), cv2.COLOR_BGR2RGB)
        boxes, labels = dataset.readers["detection"].truth.of(image_id)
        if not whole:
            return transform(image=image, bboxes=boxes, labels=labels)
        assert dataset.cache is not None
        mask = np.asarray(Image.open(dataset.devkit.root / f"SegmentationClass/{image_id}.png"))
        said = dataset.cache.boxes(image_id)
        return transform(
            image=image,
            bboxes=np.concatenate([boxes, said.boxes]),
            labels=np.concatenate([labels, said.labels]),
            masks=[mask, dataset.cache.index_map(image_id)],
        )

    return sample


def _installed(peer: Peer, package: str) -> Peer | None:
    return peer if importlib.util.find_spec(package) else None


PEERS: dict[str, tuple[str, Peer | None]] = {
    "torchvision v2, SSD's pipeline, Pillow": (">= 10 x ours", torchvision_sample),
    "albumentations, OpenCV": (
        ">= 2 x ours",
        _installed(functools.partial(albumentations_sample, whole=False), "albumentations"),
    ),
    "... with mask, label map, tutor's boxes, as ours": (
        "",
        _installed(functools.partial(albumentations_sample, whole=True), "albumentations"),
    ),
}
"""What each is called, its bar, and what makes its samples; None where it is not installed."""
