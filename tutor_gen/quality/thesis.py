"""What the thesis measured of its own tutors, to compare with."""

from __future__ import annotations

from collections.abc import Sequence

SOURCE = "master's thesis, TU Berlin 2019, chapter on the tutors"
DETECTION_MAP = 0.7979
"""Faster R-CNN (ResNet-152, COCO), VOC's classes only; on VOC 2012 *test*."""
SEGMENTATION_MIOU = 0.756
"""Mask R-CNN (ResNet-101, COCO) as label vectors, arg max; on VOC 2012 Segmentation/val."""
COMPARABLE_LIST = "Segmentation/val"
COMPARABLE_IMAGES = 1449


def comparable(list_name: str, image_ids: Sequence[str]) -> bool:
    """Whether the images are the complete VOC 2012 Segmentation/val."""
    return list_name == COMPARABLE_LIST and len(set(image_ids)) == COMPARABLE_IMAGES
