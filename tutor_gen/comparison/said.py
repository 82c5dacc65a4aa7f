"""What a store, or the ground truth, says of an image from its thresholds on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.vectors import from_threshold, winners
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.tutor_gen.quality.pixels import pixel_vectors
from kdcli.voc.annotation import Annotation


@dataclass(frozen=True)
class Thresholds:
    """From which confidence on boxes, and entries of label vectors, exist."""

    boxes: float
    vectors: float


@dataclass(frozen=True, eq=False)
class Said:
    """What one source says of an image.

    Attributes:
        boxes: its objects; None if it has none to say.
        class_map: (H, W) class ids, `VOID` where nothing is said; None likewise.
    """

    boxes: Detections | None
    class_map: NDArray[np.integer] | None


def said_by_store(
    cache: TutorCache, image_id: str, thresholds: Thresholds, size: tuple[int, int]
) -> Said:
    """Read an image of (height, width) pixels; one that failed says that nothing is there."""
    failed = image_id in cache.failed
    boxes = class_map = None
    if "detection" in cache.roles:
        boxes = Detections.none() if failed else cache.boxes(image_id)
        boxes = boxes.take(boxes.scores >= np.float32(thresholds.boxes))
    if "segmentation" in cache.roles:
        index_map, palette = pixel_vectors(cache, image_id, size)
        classes = winners(from_threshold(palette, thresholds.vectors)).astype(np.uint8)
        class_map = classes[index_map]
    return Said(boxes, class_map)


def said_by_truth(annotation: Annotation | None, mask: NDArray[np.uint8] | None) -> Said:
    """The objects that are not difficult, and the mask."""
    if annotation is None:
        return Said(None, mask)
    counts = ~annotation.difficult
    boxes, labels = annotation.boxes[counts], annotation.labels[counts]
    return Said(Detections(boxes, labels, np.ones(len(labels), np.float32)), mask)
