"""Objects of object masks and the boxes that they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_mask, write_mask
from kdcli.voc.instances import LEAST_OVERLAP, instance_truth, match_objects
from kdcli.voc.labels import VOID
from kdcli.voc.metrics import box_iou

BOXES = np.array([[0, 0, 4, 4], [6, 6, 10, 10], [0, 6, 4, 10]], np.float32)


def painted(*objects: tuple[int, tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((12, 12), np.uint8)
    for number, (x1, y1, x2, y2) in objects:
        mask[y1:y2, x1:x2] = number
    return mask


def test_numbers_in_another_order() -> None:
    mask = painted((7, (0, 0, 4, 4)), (1, (6, 6, 10, 10)), (2, (0, 6, 4, 10)))
    found = match_objects(mask, BOXES)
    expected = painted((1, (0, 0, 4, 4)), (2, (6, 6, 10, 10)), (3, (0, 6, 4, 10)))
    np.testing.assert_array_equal(found.rows, expected)
    assert found.unmatched == 0
    assert found.has_mask(3).all()


def test_an_object_without_a_box_is_void_and_counted() -> None:
    mask = painted((1, (0, 0, 4, 4)), (2, (8, 0, 12, 4)))
    mask[5, 5] = VOID
    found = match_objects(mask, BOXES)
    assert found.unmatched == 1
    np.testing.assert_array_equal(found.rows == VOID, (mask == 2) | (mask == VOID))
    np.testing.assert_array_equal(found.has_mask(3), [True, False, False])


def test_of_two_objects_in_one_box_the_larger_overlap_gets_it() -> None:
    found = match_objects(painted((1, (0, 0, 2, 4)), (2, (1, 0, 4, 4))), BOXES[:1])
    np.testing.assert_array_equal(found.rows == 1, painted((1, (1, 0, 4, 4))) > 0)
    assert found.unmatched == 1


def test_equal_overlaps_go_by_number() -> None:
    twice = np.repeat(BOXES[:1], 2, axis=0)
    found = match_objects(painted((2, (0, 0, 4, 4))), twice)
    np.testing.assert_array_equal(found.has_mask(2), [False, True])


@pytest.mark.parametrize("side", [2, 3])
def test_the_least_overlap(side: int) -> None:
    """Of a box of 4 x 4: a square of 2 overlaps by 4 / 16, one of 3 by 9 / 16."""
    found = match_objects(painted((1, (0, 0, side, side))), BOXES)
    assert (found.unmatched == 0) == (side**2 / 16 >= LEAST_OVERLAP)


def test_more_boxes_than_numbers() -> None:
    many = np.tile(np.array([[0, 0, 1, 1]], np.float32), (300, 1))
    many[299] = 0, 0, 4, 4
    found = match_objects(painted((1, (0, 0, 4, 4))), many)
    assert found.unmatched == 1
    assert not found.has_mask(300).any()
    assert match_objects(painted(), many[:0]).has_mask(0).shape == (0,)


def test_drawn_scenes_match_by_number(drawn: Devkit) -> None:
    for image_id in drawn.image_ids("Segmentation/trainval"):
        truth = instance_truth(drawn, image_id)
        assert truth is not None
        assert truth.objects.unmatched == 0
        np.testing.assert_array_equal(truth.objects.rows, drawn.object_mask(image_id))
        for mask, box in zip(truth.masks(), truth.annotation.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert columns.min() >= box[0]
            assert rows.min() >= box[1]
            assert columns.max() < box[2]
            assert rows.max() < box[3]


def test_shuffled_numbers_change_nothing(spoilable: Devkit) -> None:
    rng = np.random.default_rng(0)
    for image_id in spoilable.image_ids("Segmentation/val"):
        before = instance_truth(spoilable, image_id)
        path = spoilable.mask_path(image_id, "SegmentationObject")
        numbers = np.append(np.append(0, rng.permutation(np.arange(1, VOID))), VOID)
        write_mask(path, numbers.astype(np.uint8)[read_mask(path)])
        after = instance_truth(spoilable, image_id)
        assert before is not None
        assert after is not None
        np.testing.assert_array_equal(after.objects.rows, before.objects.rows)


def test_images_without_either(spoilable: Devkit) -> None:
    first, second = spoilable.image_ids("Segmentation/val")[:2]
    spoilable.annotation_path(first).unlink()
    spoilable.mask_path(second, "SegmentationObject").unlink()
    assert instance_truth(spoilable, first) is None
    assert instance_truth(spoilable, second) is None


def test_real_objects(real: Devkit) -> None:
    if "coco" not in str(real.root):
        pytest.skip("has no object masks")
    objects = unmatched = 0
    for image_id in real.image_ids("Segmentation/val"):
        numbers, truth = real.object_mask(image_id), instance_truth(real, image_id)
        if numbers is None or truth is None:
            continue
        objects += len(np.setdiff1d(numbers, [0, VOID]))
        unmatched += truth.objects.unmatched
        known = truth.objects.has_mask(len(truth.annotation.labels))
        for row in np.flatnonzero(known):
            around = np.argwhere(truth.objects.rows == row + 1)
            box = np.array([[*around.min(axis=0)[::-1], *around.max(axis=0)[::-1] + 1]])
            assert box_iou(box, truth.annotation.boxes[row : row + 1]) >= LEAST_OVERLAP
    assert objects > 1000
    assert unmatched < objects / 50
