"""Means over the classes with many objects, beside those over all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.common.detections import Detections
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASS_IDS, CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import (
    LEAST_OBJECTS,
    DetectionResult,
    SegmentationResult,
    count_objects,
    evaluate_detections,
    frequent_classes,
    intersection_over_union,
    mean_over,
)
from kdcli.voc.metrics.table import class_rows, explanation, header, mean_rows

CAT, DOG, BUS = (CLASS_IDS[name] for name in ("cat", "dog", "bus"))


def truth(labels: list[int], difficult: int = 0) -> Annotation:
    """Objects side by side, the last ones of them difficult."""
    starts = 10.0 * np.arange(len(labels), dtype=np.float32)
    boxes = np.stack([starts, 0 * starts, starts + 8, 0 * starts + 8], axis=1)
    return Annotation(
        image_id="any", height=9, width=10 * len(labels), boxes=boxes,
        labels=np.array(labels, np.int64),
        difficult=np.arange(len(labels)) >= len(labels) - difficult,
        truncated=np.zeros(len(labels), np.bool_),
    )  # fmt: skip


def found(annotation: Annotation, *labels: int) -> Detections:
    """The boxes of some classes, all of them right."""
    chosen = np.isin(annotation.labels, labels)
    scores = np.full(int(chosen.sum()), 0.9, np.float32)
    return Detections(annotation.boxes[chosen], annotation.labels[chosen], scores)


@pytest.fixture
def detection() -> DetectionResult:
    """20 cats over two images, all found; 19 dogs that count and 5 that do not; a bus, missed."""
    annotations = {
        "one": truth([CAT] * 10 + [DOG] * 19 + [BUS]),
        "two": truth([CAT] * 10 + [DOG] * 5, difficult=5),
    }
    predictions = {name: found(each, CAT, DOG) for name, each in annotations.items()}
    return evaluate_detections(predictions, annotations)


@pytest.fixture
def segmentation(detection: DetectionResult) -> SegmentationResult:
    """The bus' pixels are missed and taken for background, half of the cats' for dogs."""
    counts = np.zeros((21, 21), np.int64)
    counts[0, 0], counts[BUS, 0], counts[CAT, CAT], counts[CAT, DOG] = 60, 20, 10, 10
    return intersection_over_union(counts, detection.frequent_classes)


def test_a_class_is_frequent_from_twenty_objects_that_count(detection: DetectionResult) -> None:
    assert LEAST_OBJECTS == 20
    assert (detection.objects["cat"], detection.objects["dog"]) == (20, 19)
    assert detection.frequent_classes == ("cat",)
    assert detection.map == pytest.approx((1 + 1 + 0) / 3)
    assert detection.map_frequent == 1


def test_iou_is_over_the_same_classes_and_the_background(segmentation: SegmentationResult) -> None:
    assert segmentation.frequent_classes == ("background", "cat")
    assert segmentation.miou == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert segmentation.miou_frequent == pytest.approx((0.75 + 0.5) / 2)


def test_frequent_classes_that_no_mask_shows_are_left_out() -> None:
    counts = np.zeros((21, 21), np.int64)
    counts[0, 0], counts[0, DOG], counts[CAT, CAT] = 5, 1, 1
    both = intersection_over_union(counts, ("cat", "dog"))
    assert both.iou["dog"] == 0
    assert both.frequent_classes == ("background", "cat")
    # The background alone would be no mean to rest anything on.
    assert intersection_over_union(counts, ("dog",)).frequent_classes == ()
    assert np.isnan(intersection_over_union(counts, ("dog",)).miou_frequent)


def test_without_boxes_no_class_is_frequent() -> None:
    counts = np.diag(np.full(21, 10**6))
    assert np.isnan(intersection_over_union(counts).miou_frequent)
    assert intersection_over_union(counts).to_dict()["miou_frequent"] is None


def test_json_holds_the_means_the_classes_and_the_bound(
    detection: DetectionResult, segmentation: SegmentationResult
) -> None:
    boxes, masks = detection.to_dict(), segmentation.to_dict()
    assert (boxes["map_frequent"], boxes["frequent_classes"]) == (1, ["cat"])
    assert masks["miou_frequent"] == segmentation.miou_frequent
    assert masks["frequent_classes"] == ["background", "cat"]
    assert boxes["least_objects"] == masks["least_objects"] == LEAST_OBJECTS
    # From what is saved, the means follow.
    assert mean_over(boxes["average_precision"], frequent_classes(boxes["objects"])) == 1
    present = [name for name, count in masks["pixels"].items() if count]
    assert mean_over(masks["iou"], present) == masks["miou"]


def test_the_table_ends_with_both_means_and_says_what_they_are(
    detection: DetectionResult, segmentation: SegmentationResult
) -> None:
    both = {"detection": detection, "segmentation": segmentation}
    rows = {row[0]: row[1:] for row in class_rows(both)}
    assert rows["cat"] == ("100.0", "50.0", "20")
    assert rows["background"] == ("-", "75.0", "-")
    means = mean_rows(both)
    assert means == [("mean", "66.7", "41.7", ""), ("frequent", "100.0", "62.5", "")]
    assert "the class with at least 20 objects that are not difficult (cat)" in explanation(both)
    # Of masks alone the sentence is the same, of neither it says that there is no mean.
    masks, neither = {**both, "detection": None}, dict.fromkeys(both)
    assert explanation(masks) == explanation(both)
    assert "no mean, as no class has at least 20 objects" in explanation(neither)
    assert mean_rows(neither)[1] == ("frequent", "-", "-", "")


def test_a_table_has_the_columns_of_what_was_evaluated(
    detection: DetectionResult, segmentation: SegmentationResult
) -> None:
    assert header({"detection": detection}) == ("class", "AP %", "objects")
    assert header({"segmentation": segmentation}) == ("class", "IoU %")
    rows = class_rows({"segmentation": segmentation})
    assert ("cat", "50.0") in rows
    assert mean_rows({"segmentation": segmentation})[0] == ("mean", "41.7")
    occurring = class_rows({"segmentation": segmentation}, occurring=True)
    assert {name for name, _ in occurring} == {n for n, c in segmentation.pixels.items() if c}


@given(
    objects=st.dictionaries(st.sampled_from(CLASSES[1:]), st.integers(0, 60)),
    least=st.integers(1, 60),
)
def test_more_objects_are_asked_of_fewer_classes(objects: dict[str, int], least: int) -> None:
    chosen = frequent_classes(objects, least)
    assert list(chosen) == [name for name in objects if objects[name] >= least]
    assert set(frequent_classes(objects, least + 1)) <= set(chosen)


def test_the_mean_leaves_out_what_is_not_defined() -> None:
    values = {"cat": 0.5, "dog": None, "bus": float("nan"), "cow": 0.25}
    assert mean_over(values, ("cat", "dog", "bus", "cow", "sheep")) == 0.375
    assert mean_over(values, ("cat",)) == 0.5
    assert np.isnan(mean_over(values, ("dog", "bus")))


def test_the_frequent_classes_of_real_photographs(real_voc: Devkit) -> None:
    """Six are well filled; a chair more or less decides about a seventh."""
    known = (real_voc.annotation(i) for i in real_voc.image_ids("Segmentation/val"))
    objects = count_objects(each for each in known if each is not None)
    six = ("cat", "cow", "dog", "horse", "person", "sheep")
    assert frequent_classes(objects) == ("cat", "chair", *six[1:])
    assert objects["chair"] == 23
    assert frequent_classes(objects, 24) == frequent_classes(objects, 100) == six
