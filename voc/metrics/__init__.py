"""The devkit's two metrics: average precision of boxes, intersection over union of masks."""

from __future__ import annotations

from kdcli.voc.metrics.detection import (
    DetectionResult,
    Metric,
    average_precision,
    box_iou,
    evaluate_detections,
)
from kdcli.voc.metrics.segmentation import (
    ConfusionMatrix,
    SegmentationResult,
    intersection_over_union,
)

__all__ = [
    "ConfusionMatrix",
    "DetectionResult",
    "Metric",
    "SegmentationResult",
    "average_precision",
    "box_iou",
    "evaluate_detections",
    "intersection_over_union",
]
