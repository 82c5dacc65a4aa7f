"""What the segmentation tutor's label vectors become for the student to learn."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcli.student.config.tasks import SegmentationTargets, TargetForm
from kdcli.student.data.tables import PADDING, BoxTable, InstanceTable
from kdcli.student.losses.soft_labels import (
    cover,
    doubtful,
    label_vector_target,
    missed_boxes,
    near_border,
    pixel_weights,
    soft_vectors,
    tutor_targets,
)
from kdcli.student.tasks.segmentation import PixelBatch

SIDE = 16
NONE = BoxTable(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0))
EMPTY = PixelBatch(
    masks=torch.zeros(1, 4, 4, dtype=torch.uint8),
    index_maps=torch.zeros(1, 4, 4, dtype=torch.int32), placements=None,
    palettes=torch.zeros(1, 1, 3),
    confirming=NONE, confirmable=torch.zeros(1, dtype=torch.bool),
    instances=InstanceTable(torch.zeros(1, 0, 28, 28, dtype=torch.uint8), NONE),
)  # fmt: skip


def table(boxes: list[list[float]], labels: list[int], scores: list[float]) -> BoxTable:
    """One image's boxes as a batch of one."""
    return BoxTable(
        torch.tensor([boxes], dtype=torch.float32).reshape(1, -1, 4),
        torch.tensor([labels], dtype=torch.int64),
        torch.tensor([scores], dtype=torch.float32),
    )


def test_softmax_target_has_the_thesis_numbers() -> None:
    """0.38 for the class of a confident pixel, and for the background where no instance lies."""
    vectors = torch.zeros(3, 21)
    vectors[1, 7] = 1.0
    vectors[2, 7] = 0.5
    target = label_vector_target(vectors, "softmax", 0.4)
    assert target[0, 0].item() == pytest.approx(0.38, abs=0.005)
    assert target[1, 7].item() == pytest.approx(0.38, abs=0.005)
    # Background is a confidence of its own only where there is no other.
    assert target[2, 0].item() == pytest.approx(1 / (20 + np.exp(1.25)), abs=1e-6)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("form", get_args(TargetForm))
def test_an_uncovered_pixel_is_background_in_every_form(form: TargetForm) -> None:
    target = label_vector_target(torch.zeros(21), form, 0.4)
    assert target.argmax() == 0
    if form != "softmax":
        assert target[0] == 1


def test_a_background_of_the_tutors_own_is_kept_in_every_form() -> None:
    vector = torch.tensor([0.25, 0.5, 0.0])
    expected = {
        "softmax": torch.softmax(vector, dim=0),
        "background": vector / 0.75,
        "complement": vector / 0.75,
        "remainder": torch.tensor([0.5, 0.5, 0.0]),
        "hard": torch.tensor([0.0, 1.0, 0.0]),
    }
    for form in get_args(TargetForm):
        torch.testing.assert_close(label_vector_target(vector, form), expected[form])


@given(st.lists(st.floats(0, 1, width=32), min_size=20, max_size=20))
def test_background_target_is_a_distribution_with_the_rest_in_background(
    scores: list[float],
) -> None:
    vector = torch.tensor([0.0, *scores])
    target = label_vector_target(vector, "background")
    assert target.sum().item() == pytest.approx(1, abs=1e-5)
    total = 1 - max(scores) + sum(scores)
    assert target[0].item() == pytest.approx((1 - max(scores)) / total, abs=1e-5)
    torch.testing.assert_close(target[1:], vector[1:] / total, atol=1e-5, rtol=0)


def test_unknown_forms_and_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"softmax, background, .*, got 'soft'"):
        label_vector_target(torch.zeros(3), "soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0, got 0"):
        label_vector_target(torch.zeros(3), "softmax", 0)


def test_complement_is_the_probability_that_no_class_is_there() -> None:
    target = label_vector_target(torch.tensor([0.0, 0.5, 0.2]), "complement")
    torch.testing.assert_close(target, torch.tensor([0.4, 0.5, 0.2]) / 1.1)


def test_remainder_keeps_a_background_mass_of_the_tutors_own() -> None:
    vectors = torch.tensor([[0.3, 0.5, 0.2], [0.0, 0.6, 0.0], [0.0, 0.9, 0.6]])
    target = label_vector_target(vectors, "remainder")
    torch.testing.assert_close(
        target, torch.tensor([[0.3, 0.5, 0.2], [0.4, 0.6, 0.0], [0.0, 0.6, 0.4]])
    )


def test_hard_is_the_class_of_the_largest_entry() -> None:
    vectors = torch.tensor([[0.0, 0.4, 0.3], [0.0, 0.6, 0.7], [0.0, 0.0, 0.0]])
    assert label_vector_target(vectors, "hard").tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def one_row(vectors: list[list[float]], index_map: list[int]) -> PixelBatch:
    """A batch of one map of one row."""
    return replace(
        EMPTY,
        index_maps=torch.tensor([[index_map]], dtype=torch.int32),
        palettes=torch.tensor([vectors], dtype=torch.float32),
    )


def test_entries_below_the_threshold_do_not_exist() -> None:
    batch = one_row([[0, 0, 0], [0, 0.2, 0], [0, 0.3, 0.29], [0, 0.9, 0.95]], [0, 1, 2, 3])
    target = tutor_targets(batch, SegmentationTargets(threshold=0.3), 3)
    assert target.distributions.argmax(dim=1).tolist() == [[[0, 0, 1, 2]]]
    torch.testing.assert_close(target.weights, torch.tensor([[[1, 1, 0.3, 0.95]]]))
    soft = SegmentationTargets(threshold=0.5, form="softmax", temperature=0.4)
    third = tutor_targets(batch, soft, 3).distributions[0, :, 0, 2]
    torch.testing.assert_close(third, torch.softmax(torch.tensor([2.5, 0, 0]), dim=0))


def test_the_range_to_ignore_is_of_what_the_tutor_said_whatever_the_threshold() -> None:
    batch = one_row([[0, 0, 0], [0, 0.2, 0], [0, 0.4, 0], [0, 0.9, 0]], [0, 1, 2, 3])
    settings = SegmentationTargets(threshold=0.3, ignore=(0.1, 0.5), confidence_weighting=False)
    assert tutor_targets(batch, settings, 3).weights.tolist() == [[[1, 0, 0, 1]]]


def test_pixels_beyond_the_image_teach_nothing() -> None:
    """As void pixels of a mask: with a class there or without, in every form."""
    batch = one_row([[0, 0, 0], [0, 0.9, 0]], [PADDING, 0, 1, PADDING])
    for form in get_args(TargetForm):
        weights = tutor_targets(batch, SegmentationTargets(form=form), 3).weights
        assert (weights > 0).tolist() == [[[False, True, True, False]]]


def test_a_background_of_the_tutors_own_decides_and_weighs() -> None:
    """A panoptic tutor's vectors: nearly every pixel has a trace of some class."""
    vectors = torch.tensor([[0.45, 0.55, 0.0], [0.4, 0.3, 0.3], [0.97, 0.03, 0.0]])
    assert label_vector_target(vectors, "hard").argmax(dim=-1).tolist() == [1, 0, 0]
    maps = vectors.T.reshape(1, 3, 1, 3)
    weights = pixel_weights(maps, SegmentationTargets(confidence_weighting=True))[0, 0]
    torch.testing.assert_close(weights, torch.tensor([0.55, 0.4, 0.97]))


def slow_paste(
    mask: np.ndarray, box: np.ndarray, confidence: float, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear between cell centres, clamped at the mask's edge, pixel by pixel."""
    out, inside = np.zeros((side, side)), np.zeros((side, side), bool)
    cells = len(mask)
    for row, column in np.ndindex(side, side):
        x = ((column + 0.5) / side - box[0]) / (box[2] - box[0])
        y = ((row + 0.5) / side - box[1]) / (box[3] - box[1])
        if not (0 <= x <= 1 and 0 <= y <= 1):
            continue
        inside[row, column] = True
        u, v = np.clip(x * cells - 0.5, 0, cells - 1), np.clip(y * cells - 0.5, 0, cells - 1)
        i, j = min(int(v), cells - 2), min(int(u), cells - 2)
        a, b = v - i, u - j
        out[row, column] = confidence * (
            (1 - a) * (1 - b) * mask[i, j] + (1 - a) * b * mask[i, j + 1]
            + a * (1 - b) * mask[i + 1, j] + a * b * mask[i + 1, j + 1]
        )  # fmt: skip
    return out, inside


def test_pasted_masks_follow_the_definition() -> None:
    """Three instances, two of one class, one reaching outside the map, one padding."""
    rng = np.random.default_rng(4)
    masks = rng.integers(0, 256, (4, 28, 28)).astype(np.uint8)
    boxes = np.array(
        [[-0.3, 0.1, 0.6, 0.8], [0.2, 0.3, 0.9, 1.4], [0.5, 0.5, 0.7, 0.9], [0, 0, 0, 0]]
    )
    labels, scores = [7, 7, 12, 0], [0.9, 0.5, 0.8, 0.0]
    instances = InstanceTable(torch.from_numpy(masks)[None], table(boxes.tolist(), labels, scores))
    expected = np.zeros((21, SIDE, SIDE))
    for mask, box, label, confidence in zip(masks[:3], boxes, labels, scores, strict=False):
        pasted, _ = slow_paste(mask / 255, box, confidence, SIDE)
        expected[label] = np.maximum(expected[label], pasted)
    torch.testing.assert_close(
        soft_vectors(instances, 21, SIDE)[0].numpy(), expected.astype(np.float32), atol=1e-5, rtol=0
    )


def test_pasting_nothing_gives_zero_vectors() -> None:
    nothing = InstanceTable(torch.zeros(1, 0, 28, 28, dtype=torch.uint8), table([], [], []))
    assert soft_vectors(nothing, 21, SIDE).shape == (1, 21, SIDE, SIDE)
    assert not soft_vectors(nothing, 21, SIDE).any()


def test_boxes_cover_the_pixels_whose_centre_they_hold() -> None:
    boxes = table([[0.0, 0.0, 0.5, 0.25], [0.5, 0.5, 2.0, 2.0], [0, 0, 1, 1]], [3, 5, 0], [1, 1, 0])
    covered = cover(boxes, 21, SIDE)[0]
    assert covered[3, :4, :8].all()
    assert covered[3].sum() == 32
    assert covered[5, 8:, 8:].all()
    assert covered[5].sum() == 64
    assert covered.sum() == 96  # the padding covers nothing
    anywhere = cover(boxes, 21, SIDE, anywhere=True)[0]
    assert [c for c in range(21) if anywhere[c].any()] == [3, 5]
    assert anywhere[[3, 5]].all()


def test_a_missed_box_is_one_without_a_pixel_of_its_class() -> None:
    """Two boxes of class 3, one found; one of class 5 in which the tutor saw a 3."""
    vectors = torch.zeros(1, 21, SIDE, SIDE)
    vectors[0, 3, 2, 2] = 0.6
    vectors[0, 3, 12, 3] = 0.6
    boxes = table(
        [[0.0, 0.0, 0.25, 0.25], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0]], [3, 3, 5], [1, 1, 1]
    )
    missed = missed_boxes(vectors, boxes)[0]
    assert missed[:8, 8:].all()
    assert not missed[:8, :8].any()
    assert not missed[12, 3]  # labelled, if by another class: left to confirmation
    assert missed.sum() == 64 + 64 - 1


def test_pixels_of_middling_confidence_and_near_borders_teach_nothing() -> None:
    vectors = torch.zeros(1, 21, SIDE, SIDE)
    vectors[0, 3, :, 8:] = 0.9
    vectors[0, 4, :, 12:] = 0.4
    vectors[0, 3, :, 12:] = 0.0
    ignored = doubtful(vectors, (0.3, 0.7))[0]
    assert ignored[:, 12:].all()
    assert not ignored[:, :12].any()
    weighted = pixel_weights(vectors, SegmentationTargets(confidence_weighting=True))[0, 0]
    torch.testing.assert_close(weighted[[0, 8, 12]], torch.tensor([1.0, 0.9, 0.4]))
    # The borders are at columns 8 and 12.
    border = near_border(vectors, 1)[0, 5]
    assert border.nonzero()[:, 0].tolist() == [7, 8, 11, 12]
