"""A stand-in for Mask R-CNN on photographs: a real detector's boxes, with masks made for them.

Where a detection finds an annotated object, its mask is the ground truth's, seen through the 28 x
28 cells of the *detected* box; where it is wrong, the ellipse in its box. Classes, boxes,
confidences, misses and ghosts are the detector's own: what is simulated is the shape of masks, and
its shapes are better than a network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache_data import SETTINGS, mask_in_box
from cache.reader import TutorCache
from cache.record import Boxes, InstanceMasks, TutorOutput
from cache.writer import CacheWriter
from tutor_gen.label_vectors import code_label_vectors
from voc.annotation import Annotation
from voc.devkit import Devkit

FLOOR = 0.05
"""Least confidence of an instance, Detectron2's default."""


def simulate_masks(
    devkit: Devkit, image_ids: Sequence[str], detections: TutorCache, out: Path
) -> TutorCache:
    """Write a cache of the detector's boxes and the simulated masks; return it."""
    entries = [detections.entry(image_id) for image_id in image_ids]
    settings = SETTINGS | {"keep_masks": True, "simulated_from": detections.fingerprint}
    with CacheWriter.open(out, entries, settings, {}) as writer:
        for shard in writer.pending():
            writer.write(shard, [_simulate(devkit, e.image_id, detections) for e in shard.images])
        writer.finish()
    return TutorCache.open(out)


def _simulate(devkit: Devkit, image_id: str, detections: TutorCache) -> TutorOutput:
    found = detections.boxes(image_id)
    annotation, class_mask = devkit.annotation(image_id), devkit.mask(image_id)
    if annotation is None or class_mask is None:
        raise SystemExit(f"{image_id} has no ground truth to take masks from")
    sure = Boxes(*(column[found.confidences >= FLOOR] for column in found))
    height, width = class_mask.shape
    masks = np.zeros((len(sure.labels), height, width), bool)
    cells = np.zeros((len(sure.labels), 28, 28), np.uint8)
    for i, (box, label) in enumerate(zip(sure.boxes, sure.labels, strict=True)):
        right = _finds(box, label, annotation)
        whole = class_mask == label if right else _ellipse(box, height, width)
        masks[i], cells[i] = mask_in_box(whole, box)
    label_map, palette = code_label_vectors(
        masks, sure.labels, sure.confidences, height, width, sure.boxes
    )
    kept = InstanceMasks(cells, *sure)
    return TutorOutput(image_id, *found, label_map, palette, kept)


def _finds(box: NDArray[np.float32], label: int, annotation: Annotation) -> bool:
    """Whether the box overlaps an object of its class with an IoU of at least 0.5."""
    objects = annotation.boxes[annotation.labels == label]
    sides = np.minimum(box[2:], objects[:, 2:]) - np.maximum(box[:2], objects[:, :2])
    shared = sides.clip(0).prod(axis=1)
    areas = (objects[:, 2:] - objects[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return bool((shared / (areas - shared) >= 0.5).any())


def _ellipse(box: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    centre, radius = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    x = (np.arange(width) + 0.5 - centre[0]) / radius[0]
    y = (np.arange(height) + 0.5 - centre[1]) / radius[1]
    inside: NDArray[np.bool_] = x[None] ** 2 + y[:, None] ** 2 <= 1
    return inside
