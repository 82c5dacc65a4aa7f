"""Tutor output to measure a cache with: real masks and boxes, simulated confidences.

Of every annotated object there are one to four instances, as an instance segmenter returns them:
the first fits, the others are shifted and less sure; their masks go through 28 x 28 cells. Sixty
weak boxes an image stand for what a detector with a low floor adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdcli.cache.format.record import MASK_SIDE, InstanceMasks, TutorOutput
from kdcli.common.detections import Detections
from kdcli.tutor_gen.labels.hard import code_label_vectors
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit, mask_folder
from kdcli.voc.scenes.dataset import draw_scene

SETTINGS = {
    "class_names": list(CLASSES),
    "detection": {"name": "simulated"},
    "segmentation": {"name": "simulated"},
    "detection_floor": 0.001,
}
WEAK_BOXES = 60


def simulated_outputs(voc: Path | None, count: int) -> Iterator[TutorOutput]:
    """Outputs for the photographs of a devkit, or for drawn scenes without one."""
    if voc is None:
        for index in range(count):
            scene = draw_scene(1, index)
            yield simulate(index, scene.annotation, scene.class_mask)
        return
    devkit = Devkit.open(voc)
    name = next(n for n in ("SegmentationAug/train", "Segmentation/train") if n in devkit.lists())
    for index, image_id in enumerate(devkit.image_ids(name)[:count]):
        annotation = devkit.annotation(image_id)
        mask = devkit.mask(image_id, mask_folder(name))
        if mask is None:
            mask = devkit.mask(image_id)
        if annotation is not None and mask is not None:
            yield simulate(index, annotation, mask)


def simulate(seed: int, annotation: Annotation, class_mask: NDArray[np.uint8]) -> TutorOutput:
    """What tutors might say of an image with these objects."""
    rng = np.random.default_rng([1, seed])
    height, width = class_mask.shape
    masks, cells, boxes, labels, scores = [], [], [], [], []
    for true_box, label in zip(annotation.boxes, annotation.labels, strict=True):
        for copy in range(int(rng.integers(1, 5))):
            box = _shifted(rng, true_box, height, width) if copy else true_box
            mask, probabilities = mask_in_box(class_mask == label, box)
            masks.append(mask)
            cells.append(probabilities)
            boxes.append(box)
            labels.append(int(label) if copy < 2 else int(rng.integers(1, 21)))
            scores.append(rng.beta(0.5, 4) if copy else rng.beta(8, 1))
    n = len(boxes)
    found = Detections(
        np.array(boxes, np.float32).reshape(n, 4),
        np.array(labels, np.uint8),
        np.array(scores, np.float32),
    )
    index_map, palette = code_label_vectors(
        np.array(masks, bool).reshape(n, height, width),
        found.labels,
        found.scores,
        height,
        width,
    )
    weak = _weak_boxes(rng, height, width)
    masks = np.array(cells, np.uint8).reshape(n, MASK_SIDE, MASK_SIDE)
    return TutorOutput(
        annotation.image_id,
        np.concatenate([found.boxes, weak.boxes]),
        np.concatenate([found.labels, weak.labels]),
        np.concatenate([found.scores, weak.scores]),
        index_map,
        palette,
        InstanceMasks(found.boxes, found.labels, found.scores, masks),
    )


def _shifted(
    rng: np.random.Generator, box: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    sides = np.tile(box[2:] - box[:2], 2)
    x1, y1, x2, y2 = box + rng.normal(0, 0.12, 4) * sides
    x1, y1 = np.clip(x1, 0, width - 4), np.clip(y1, 0, height - 4)
    moved = [x1, y1, np.clip(x2, x1 + 3, width), np.clip(y2, y1 + 3, height)]
    return np.array(moved, np.float32)


def mask_in_box(
    mask: NDArray[np.bool_], box: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """The mask as 28 x 28 cells of its box, and what is left of it when they are pasted back."""
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    crop = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    cells = crop.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BILINEAR)
    pasted = np.zeros_like(mask)
    back = cells.resize(crop.size, Image.Resampling.BILINEAR)
    pasted[top:bottom, left:right] = np.asarray(back) > 127
    return pasted, np.asarray(cells)


def _weak_boxes(rng: np.random.Generator, height: int, width: int) -> Detections:
    corners = rng.random((WEAK_BOXES, 2)) * 0.8
    boxes = np.concatenate([corners, corners + 0.01 + 0.19 * rng.random((WEAK_BOXES, 2))], axis=1)
    return Detections(
        (boxes * [width, height, width, height]).astype(np.float32),
        rng.integers(1, 21, WEAK_BOXES).astype(np.uint8),
        (0.001 + 0.3 * rng.beta(0.3, 6, WEAK_BOXES)).astype(np.float32),
    )
