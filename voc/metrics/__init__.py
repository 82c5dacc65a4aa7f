"""The metrics: average precision of boxes and of instance masks, intersection over union of masks.

All as means over all classes that occur, and over those that occur often.
"""

from __future__ import annotations

from kdcli.voc.metrics.detection import (
    DetectionResult,
    Metric,
    average_precision,
    box_iou,
    count_objects,
    evaluate_detections,
    number,
    percent,
)
from kdcli.voc.metrics.frequent import LEAST_OBJECTS, frequent_classes, mean_over
from kdcli.voc.metrics.instances import Compared, InstanceResult, compare, evaluate_instances
from kdcli.voc.metrics.measure import FREQUENT, Measure, Result
from kdcli.voc.metrics.segmentation import (
    ConfusionMatrix,
    SegmentationResult,
    class_iou,
    intersection_over_union,
)

MEASURES = (DetectionResult.measure, SegmentationResult.measure, InstanceResult.measure)
"""In the order in which they are shown."""

__all__ = [
    "FREQUENT",
    "LEAST_OBJECTS",
    "MEASURES",
    "Compared",
    "ConfusionMatrix",
    "DetectionResult",
    "InstanceResult",
    "Measure",
    "Metric",
    "Result",
    "SegmentationResult",
    "average_precision",
    "box_iou",
    "class_iou",
    "compare",
    "count_objects",
    "evaluate_detections",
    "evaluate_instances",
    "frequent_classes",
    "intersection_over_union",
    "mean_over",
    "number",
    "percent",
]
