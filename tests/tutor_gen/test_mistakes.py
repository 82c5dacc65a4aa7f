"""What boxes and pixels miss, invent and mix up: by hand, and against counting one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdcli.common.detections import Detections
from kdcli.tutor_gen.quality.mistakes import (
    KINDS,
    BoxMistakes,
    Confusion,
    box_mistakes,
    confusions,
    pixel_mistakes,
)
from kdcli.voc.annotation import Annotation
from kdcli.voc.metrics import ConfusionMatrix, box_iou
from kdcli.voc.metrics.detection import judge

CAT, DOG, SOFA = 8, 12, 18
ALREADY, CLASS, PLACE, NOTHING = range(len(KINDS))


def annotation(boxes: list[list[float]], labels: list[int], difficult: list[bool]) -> Annotation:
    return Annotation(
        image_id="2007_000001",
        width=200,
        height=100,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, np.bool_),
        truncated=np.zeros(len(labels), np.bool_),
    )


def detections(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.uint8),
        np.array(scores, np.float32),
    )


ONE, TWO, THREE = [0, 0, 20, 20], [50, 0, 70, 20], [100, 0, 120, 20]


def test_every_kind_by_hand() -> None:
    """A cat found twice, a dog called a cat, a sofa grazed, a difficult cat, and thin air."""
    truth = annotation([ONE, TWO, THREE, [0, 50, 20, 70]], [CAT, DOG, SOFA, CAT],
                       [False, False, False, True])  # fmt: skip
    said = detections(
        [ONE, [1, 0, 20, 20], TWO, [110, 0, 130, 20], [0, 50, 20, 70], [160, 60, 170, 70]],
        [CAT, CAT, CAT, SOFA, CAT, DOG],
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    )
    found = box_mistakes(said, truth)
    assert (found.found[CAT], found.found.sum()) == (1, 1)
    assert (found.missed[CAT], found.missed[DOG], found.missed[SOFA]) == (0, 1, 1)
    assert found.invented.sum() == 4
    assert found.invented[ALREADY, CAT] == 1
    assert found.invented[CLASS, CAT] == 1
    assert found.invented[PLACE, SOFA] == 1
    assert found.invented[NOTHING, DOG] == 1
    assert (found.confused[DOG, CAT], found.confused.sum()) == (1, 1)


def test_images_add_up() -> None:
    truth = annotation([ONE, TWO], [CAT, DOG], [False, False])
    right = box_mistakes(detections([ONE, TWO], [CAT, DOG], [0.9, 0.8]), truth)
    none = box_mistakes(Detections.none(), truth)
    both = BoxMistakes.none().plus(right).plus(none)
    assert both.found.sum() == both.missed.sum() == 2
    assert both.invented.sum() == both.confused.sum() == 0
    alone = box_mistakes(detections([ONE], [CAT], [0.5]), annotation([], [], []))
    assert alone.invented[NOTHING, CAT] == alone.invented.sum() == 1


def test_many_boxes_equal_going_through_them_one_by_one() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        corners = rng.uniform(0, 60, (14, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (14, 2))], axis=1)
        labels = rng.choice([CAT, DOG], 14)
        truth = annotation(boxes[:6].tolist(), labels[:6].tolist(), (rng.random(6) < 0.2).tolist())
        near = boxes + rng.normal(0, 3, boxes.shape)
        said = detections(near.tolist(), rng.choice([CAT, DOG], 14).tolist(),
                          rng.random(14).tolist())  # fmt: skip
        found = box_mistakes(said, truth)
        right, counts = judge(said, truth)
        expected = dict.fromkeys(range(len(KINDS)), 0)
        for i in np.flatnonzero(counts & ~right):
            iou = box_iou(said.boxes[i : i + 1], truth.boxes)[0]
            own = [v for v, label in zip(iou, truth.labels, strict=True) if label == said.labels[i]]
            other = [v for v, label in zip(iou, truth.labels, strict=True)
                     if label != said.labels[i]]  # fmt: skip
            if max(own, default=0) > 0.5:
                expected[ALREADY] += 1
            elif max(other, default=0) > 0.5:
                expected[CLASS] += 1
            else:
                expected[PLACE if max(own, default=0) > 0.1 else NOTHING] += 1
        assert found.invented.sum(axis=1).tolist() == list(expected.values())
        assert found.confused.sum() == expected[CLASS]
        assert (found.found + found.missed).sum() == (~truth.difficult).sum()


def test_pixels_equal_looking_at_each() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 0, CAT, DOG, 255], (40, 50)).astype(np.uint8)
    said = np.where(rng.random((40, 50)) < 0.6, truth % 255, rng.choice([0, CAT], (40, 50)))
    matrix = ConfusionMatrix()
    matrix.update(said, truth)
    found = pixel_mistakes(matrix.counts)
    known = truth != 255
    there, named = known & (truth > 0), known & (said > 0)
    assert found.missed == pytest.approx((said[there] == 0).mean())
    assert found.confused == pytest.approx(((said != truth) & (said > 0))[there].mean())
    assert found.invented == pytest.approx((truth[named] == 0).mean())
    nothing = pixel_mistakes(np.zeros((21, 21), np.int64))
    assert all(math.isnan(v) for v in (nothing.missed, nothing.confused, nothing.invented))


def test_confusions_are_sorted_and_leave_out_what_is_right_and_the_background() -> None:
    counts = np.zeros((21, 21), np.int64)
    counts[CAT, CAT], counts[0, CAT], counts[CAT, 0] = 90, 80, 70
    counts[DOG, CAT], counts[CAT, SOFA], counts[SOFA, DOG] = 3, 5, 1
    assert confusions(counts, 2) == (Confusion("cat", "sofa", 5), Confusion("dog", "cat", 3))
    assert [c.count for c in confusions(counts, 9)] == [5, 3, 1]
    assert counts[CAT, CAT] == 90
