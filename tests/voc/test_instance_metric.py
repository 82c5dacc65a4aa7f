"""AP of masks by hand, and against counts of their own: AP^r in loops, COCO's from its paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from kdcli.common.detections import Detections
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASS_IDS
from kdcli.voc.devkit import Devkit
from kdcli.voc.instances import InstanceTruth, ObjectMap, instance_truth
from kdcli.voc.labels import VOID
from kdcli.voc.metrics import Compared, compare, evaluate_instances

CAT, DOG = CLASS_IDS["cat"], CLASS_IDS["dog"]
SIDE = 24


@dataclass(frozen=True, eq=False)
class Said:
    """What is said of one image, its masks as they are."""

    detections: Detections
    masks: np.ndarray


def truth_of(rows: np.ndarray, *objects: tuple[int, bool]) -> InstanceTruth:
    count = len(objects)
    annotation = Annotation(
        "any", *rows.shape, np.zeros((count, 4), np.float32),
        np.array([label for label, _ in objects], np.int64),
        np.array([difficult for _, difficult in objects], bool), np.zeros(count, bool),
    )  # fmt: skip
    return InstanceTruth(annotation, ObjectMap(rows.astype(np.uint8), 0))


def said_of(*found: tuple[int, float, np.ndarray]) -> Said:
    detections = Detections(
        np.zeros((len(found), 4), np.float32),
        np.array([label for label, _, _ in found], np.int64),
        np.array([score for _, score, _ in found], np.float32),
    )
    return Said(detections, np.array([mask for *_, mask in found], bool).reshape(-1, SIDE, SIDE))


def square(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def compared(*images: tuple[Said, InstanceTruth]) -> list[Compared]:
    return [compare(said.detections, said.masks, truth) for said, truth in images]


def scene(seed: int) -> tuple[Said, InstanceTruth]:
    """A few objects, some difficult, void between; masks near them, and some anywhere."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((SIDE, SIDE), np.int64)
    objects = []
    for row in range(int(rng.integers(0, 5))):
        x, y, w, h = *rng.integers(0, 16, 2), *rng.integers(4, 9, 2)
        rows[y : y + h, x : x + w] = row + 1
        objects.append((int(rng.choice([CAT, DOG])), bool(rng.random() < 0.2)))
    rows[:, 11] = VOID
    found = []
    for row, (label, _) in enumerate(objects):
        for _ in range(int(rng.integers(0, 3))):
            mask = np.roll(rows == row + 1, tuple(rng.integers(-1, 2, 2)), (0, 1))
            mask[:, 11] = rng.random() < 0.5  # must not matter: void
            sure = round(float(rng.random()), 1)  # equal ones occur
            found.append((label if rng.random() < 0.9 else CAT, sure, mask))
    if rng.random() < 0.3:
        found.append((DOG, float(rng.random()), square(2, 2, 9, 9)))
    return said_of(*found), truth_of(rows, *objects)


def region_iou(mask: np.ndarray, other: np.ndarray, void: np.ndarray) -> float:
    together, either = (mask & other & ~void).sum(), ((mask | other) & ~void).sum()
    return float(together / either) if either else 0.0


def slow_ap_r(images: list[tuple[Said, InstanceTruth]], label: int, threshold: float) -> float:
    """In loops, as the paper says it."""
    wanted = sum(
        own == label and not difficult and (truth.objects.rows == row + 1).any()
        for _, truth in images
        for row, (own, difficult) in enumerate(
            zip(truth.annotation.labels, truth.annotation.difficult, strict=True)
        )
    )
    found = sorted(
        (-float(said.detections.scores[i]), number, i)
        for number, (said, _) in enumerate(images)
        for i in np.flatnonzero(said.detections.labels == label)
    )
    taken, verdicts = set(), []
    for _, number, i in found:
        best, which, difficult = overlapped_most(*images[number], i, label)
        if best > threshold and difficult:
            continue
        verdicts.append(best > threshold and (number, which) not in taken)
        if best > threshold:
            taken.add((number, which))
    precisions = [sum(verdicts[:place]) / place for place in range(1, len(verdicts) + 1)]
    steps = [max(precisions[place:]) for place, good in enumerate(verdicts) if good]
    return sum(steps) / wanted if wanted else math.nan


def overlapped_most(
    said: Said, truth: InstanceTruth, i: int, label: int
) -> tuple[float, int, bool]:
    rows, annotation = truth.objects.rows, truth.annotation
    overlaps = [
        (region_iou(said.masks[i], rows == row + 1, rows == VOID), -row)
        for row, own in enumerate(annotation.labels)
        if own == label
    ]
    best, row = max(overlaps, default=(0.0, 0))
    return best, -row, bool(overlaps) and bool(annotation.difficult[-row])


def slow_coco(images: list[tuple[Said, InstanceTruth]], label: int, threshold: float) -> float:
    """COCO's average precision at one threshold; a crowd takes what lies within it."""
    found, wanted = [], 0
    for number, (said, truth) in enumerate(images):
        rows, annotation = truth.objects.rows, truth.annotation
        void = rows == VOID
        masks = {
            row: rows == row + 1
            for row, own in enumerate(annotation.labels)
            if own == label and (rows == row + 1).any()
        }
        wanted += sum(not annotation.difficult[row] for row in masks)
        detections = said.detections
        own = [i for i in range(len(detections)) if detections.labels[i] == label]
        free = {row for row in masks if not annotation.difficult[row]}
        for i in sorted(own, key=lambda i: -detections.scores[i]):
            mask = said.masks[i] & ~void
            best, which = threshold, -1
            for row in sorted(free):
                overlap = region_iou(mask, masks[row], void)
                if overlap >= best:
                    best, which = overlap, row
            crowds = [masks[row] for row in masks if annotation.difficult[row]]
            crowded = any(
                (mask & crowd).sum() / max(mask.sum(), 1) >= threshold for crowd in crowds
            )
            free.discard(which)
            if which < 0 and crowded:
                continue
            found.append((-detections.scores[i], number, which >= 0))
    if not wanted:
        return math.nan
    found.sort(key=lambda each: each[0])
    hits = np.cumsum([good for *_, good in found])
    recalls, precisions = hits / wanted, hits / np.arange(1, len(hits) + 1)
    total = 0.0
    for recall in np.linspace(0, 1, 101):
        total += max((p for p, r in zip(precisions, recalls, strict=True) if r >= recall),
                     default=0.0) / 101  # fmt: skip
    return total


@pytest.mark.parametrize("seed", range(4))
def test_against_counts_of_their_own(seed: int) -> None:
    images = [scene(100 * seed + number) for number in range(12)]
    result = evaluate_instances(compared(*images))
    for name, label in (("cat", CAT), ("dog", DOG)):
        for values, threshold in (
            (result.average_precision, 0.5), (result.average_precision_70, 0.7),
        ):  # fmt: skip
            expected = slow_ap_r(images, label, threshold)
            assert values[name] == pytest.approx(expected, nan_ok=True)
    steps = {t: [slow_coco(images, label, t) for label in (CAT, DOG)]
             for t in np.linspace(0.5, 0.95, 10).round(2).tolist()}  # fmt: skip
    assert result.coco["coco_map_50"] == pytest.approx(np.nanmean(steps[0.5]), abs=1e-9)
    assert result.coco["coco_map_75"] == pytest.approx(np.nanmean(steps[0.75]), abs=1e-9)
    assert result.coco["coco_map"] == pytest.approx(np.nanmean(list(steps.values())), abs=1e-9)
    assert 0 < result.map_r_70 <= result.map_r < 1


def test_void_and_difficult_objects_by_hand() -> None:
    rows = np.zeros((SIDE, SIDE), np.int64)
    rows[0:8, 0:8], rows[12:20, 12:20], rows[8:10, 0:8] = 1, 2, VOID
    truth = truth_of(rows, (CAT, False), (CAT, True))
    over_void = square(0, 0, 8, 10)
    images = compared(
        (said_of((CAT, 0.9, over_void), (CAT, 0.8, square(12, 12, 20, 20))), truth),
    )
    result = evaluate_instances(images)
    assert (result.map_r, result.map_r_70) == (1.0, 1.0)
    assert result.coco["coco_map"] == pytest.approx(1.0)
    assert result.objects["cat"] == 1
    twice = compared((said_of((CAT, 0.9, over_void), (CAT, 0.95, over_void)), truth))
    assert evaluate_instances(twice).map_r == 1.0  # the second is wrong, but comes too late
    worse = compared((said_of((CAT, 0.9, over_void), (CAT, 0.95, square(0, 0, 8, 4))), truth))
    assert evaluate_instances(worse).map_r == 0.5


def test_objects_without_a_mask_are_not_looked_for() -> None:
    rows = np.zeros((SIDE, SIDE), np.int64)
    rows[0:8, 0:8] = 1
    truth = truth_of(rows, (CAT, False), (DOG, False))
    result = evaluate_instances(compared((said_of(), truth)))
    assert result.objects["cat"] == 1
    assert result.objects["dog"] == 0
    assert result.map_r == 0.0
    assert math.isnan(result.average_precision["dog"])
    nothing = evaluate_instances(compared((said_of(), truth_of(rows))))
    assert nothing.to_dict()["map_r"] is nothing.to_dict()["coco_map"] is None


def test_masks_and_detections_belong_together() -> None:
    rows = np.zeros((SIDE, SIDE), np.int64)
    said = said_of((CAT, 0.5, square(0, 0, 4, 4)))
    with pytest.raises(ValueError, match="a mask for each of 1 detections, got 0"):
        compare(said.detections, [], truth_of(rows))
    with pytest.raises(ValueError, match=r"masks of \(24, 24\) pixels, got \(3, 3\)"):
        compare(said.detections, [np.zeros((3, 3), bool)], truth_of(rows))


def test_the_truth_scores_one_and_its_boxes_less(drawn: Devkit) -> None:
    perfect, boxes = [], []
    for image_id in drawn.image_ids("Segmentation/trainval"):
        truth = instance_truth(drawn, image_id)
        assert truth is not None
        annotation, masks = truth.annotation, truth.masks()
        sure = np.ones(len(annotation.labels), np.float32)
        said = Detections(annotation.boxes, annotation.labels, sure)
        perfect.append(compare(said, masks, truth))
        filled = np.zeros_like(masks)
        for mask, (x1, y1, x2, y2) in zip(filled, annotation.boxes.astype(int), strict=True):
            mask[y1:y2, x1:x2] = True
        boxes.append(compare(said, filled, truth))
    whole, rough = evaluate_instances(perfect), evaluate_instances(boxes)
    assert (whole.map_r, whole.map_r_70, whole.coco["coco_map"]) == pytest.approx((1.0, 1.0, 1.0))
    assert rough.map_r_70 < rough.map_r < 1.0
