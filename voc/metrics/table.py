"""Both metrics as one table per class, for whoever shows it."""

from __future__ import annotations

from kdcli.voc.labels import BACKGROUND
from kdcli.voc.metrics.detection import DetectionResult, percent
from kdcli.voc.metrics.frequent import LEAST_OBJECTS
from kdcli.voc.metrics.segmentation import SegmentationResult

HEADER = ("class", "AP %", "IoU %", "objects")
Row = tuple[str, str, str, str]


def class_rows(
    detection: DetectionResult | None, segmentation: SegmentationResult | None
) -> list[Row]:
    """Return a row of `HEADER` for each class; a dash stands for what is not defined."""
    found = {} if detection is None else detection.average_precision
    overlap = {} if segmentation is None else segmentation.iou
    objects = {} if detection is None else detection.objects
    return [
        (name, percent(found.get(name)), percent(overlap.get(name)), str(objects.get(name, "-")))
        for name in (overlap or (BACKGROUND, *found))
    ]


def mean_rows(
    detection: DetectionResult | None, segmentation: SegmentationResult | None
) -> list[Row]:
    """Return the rows of the means: over all classes that occur, and over the frequent ones."""
    maps = (None, None) if detection is None else (detection.map, detection.map_frequent)
    mious = (
        (None, None) if segmentation is None else (segmentation.miou, segmentation.miou_frequent)
    )
    return [
        (name, percent(mean_ap), percent(miou), "")
        for name, mean_ap, miou in zip(("mean", "frequent"), maps, mious, strict=True)
    ]


def explanation(detection: DetectionResult | None, segmentation: SegmentationResult | None) -> str:
    """Return a sentence that says over which classes the mean of the frequent ones is."""
    if detection is not None:
        classes = detection.frequent_classes
    else:
        classes = () if segmentation is None else segmentation.frequent
    objects = f"at least {LEAST_OBJECTS} objects that are not difficult"
    if not classes:
        return f"Frequent: no mean, as no class has {objects}."
    number = "the class" if len(classes) == 1 else f"the {len(classes)} classes"
    return (
        f"Frequent: the mean over {number} with {objects} ({', '.join(classes)}); "
        "IoU with the background."
    )
