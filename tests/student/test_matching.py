"""Matching against its definition in loops, the unpleasant cases by hand."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.student.losses import matching
from kdcli.student.losses.matching import Matches, match
from kdcli.student.model.anchors import make_anchors
from kdcli.student.model.config import PRESETS


def slow_iou(anchor: np.ndarray, box: np.ndarray) -> float:
    x1, y1 = anchor[0] - anchor[2] / 2, anchor[1] - anchor[3] / 2
    x2, y2 = x1 + anchor[2], y1 + anchor[3]
    width = max(0.0, min(x2, box[2]) - max(x1, box[0]))
    height = max(0.0, min(y2, box[3]) - max(y1, box[1]))
    area = (box[2] - box[0]) * (box[3] - box[1])
    return float(width * height / (anchor[2] * anchor[3] + area - width * height))


def slow_match(
    anchors: np.ndarray, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image, the boxes without padding, in float64."""
    count = len(anchors)
    assigned = [-1] * count
    iou = [[slow_iou(anchor, box) for anchor in anchors] for box in boxes]
    for a in range(count):
        best = max(range(len(boxes)), key=lambda b: iou[b][a], default=-1)
        if best >= 0 and iou[best][a] >= 0.5:
            assigned[a] = best
    claimed = set()
    for b in range(len(boxes)):
        a = max(range(count), key=lambda a: iou[b][a])
        if a not in claimed:
            claimed.add(a)
            assigned[a] = b
    out_labels, offsets, out_confidences = (
        np.zeros(count, int),
        np.zeros((count, 4)),
        np.ones(count),
    )
    for a, b in enumerate(assigned):
        if b >= 0:
            out_labels[a], out_confidences[a] = labels[b], scores[b]
            offsets[a] = slow_offsets(anchors[a], boxes[b])
    return out_labels, offsets, out_confidences


def slow_offsets(anchor: np.ndarray, box: np.ndarray) -> list[float]:
    width, height = box[2] - box[0], box[3] - box[1]
    return [
        ((box[0] + box[2]) / 2 - anchor[0]) / anchor[2] / 0.1,
        ((box[1] + box[3]) / 2 - anchor[1]) / anchor[3] / 0.1,
        math.log(width / anchor[2]) / 0.2,
        math.log(height / anchor[3]) / 0.2,
    ]


def match_one(anchors: list[list[float]], boxes: list[list[float]], **more: object) -> Matches:
    labels = torch.arange(1, len(boxes) + 1)[None]
    scores = 1 / (1 + labels.float())
    table = torch.tensor(boxes).reshape(1, -1, 4)
    return match(torch.tensor(anchors), table, labels, scores)


# A lattice of dyadic numbers: equal overlaps are equal in any floating-point arithmetic.
LATTICE = np.array(
    [
        (x / 8, y / 8, s / 8, t / 8)
        for x, y, (s, t) in product((2, 4, 6), (2, 4, 6), ((2, 2), (4, 2)))
    ]
)
corners = st.integers(0, 15)
box_strategy = st.tuples(corners, corners, st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: [b[0] / 16, b[1] / 16, (b[0] + b[2]) / 16, (b[1] + b[3]) / 16]
)
image_strategy = st.lists(
    st.tuples(box_strategy, st.integers(0, 20), st.sampled_from([1.0, 0.5, 0.03125])), max_size=6
)


@settings(deadline=None, max_examples=200)
@given(images=st.lists(image_strategy, min_size=1, max_size=3))
def test_matching_follows_the_definition(
    images: list[list[tuple[list[float], int, float]]],
) -> None:
    count = max(len(image) for image in images)
    boxes = torch.zeros(len(images), count, 4)
    labels, scores = torch.zeros(len(images), count).long(), torch.zeros(len(images), count)
    for i, image in enumerate(images):
        for j, (box, label, confidence) in enumerate(image):
            boxes[i, j], labels[i, j], scores[i, j] = torch.tensor(box), label, confidence
    matches = match(torch.tensor(LATTICE).float(), boxes, labels, scores)
    for i, image in enumerate(images):
        real = [entry for entry in image if entry[1] > 0]  # label 0 is padding, wherever it stands
        expected = slow_match(
            LATTICE,
            np.array([entry[0] for entry in real]).reshape(-1, 4),
            np.array([entry[1] for entry in real]),
            np.array([entry[2] for entry in real]),
        )
        np.testing.assert_array_equal(matches.labels[i], expected[0])
        np.testing.assert_allclose(matches.offsets[i], expected[1], atol=1e-5)
        np.testing.assert_array_equal(matches.scores[i], expected[2])


def test_matching_the_real_anchors() -> None:
    rng = np.random.default_rng(3)
    anchors = make_anchors(PRESETS["tiny"])
    low = rng.uniform(0, 0.8, (1, 5, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.02, 0.6, (1, 5, 2))], axis=2)
    labels, scores = rng.integers(1, 21, (1, 5)), rng.uniform(0, 1, (1, 5))
    tables = (torch.tensor(table) for table in (boxes, labels, scores))
    matches = match(anchors, *tables)
    expected = slow_match(anchors.double().numpy(), boxes[0], labels[0], scores[0])
    np.testing.assert_array_equal(matches.labels[0], expected[0])
    np.testing.assert_allclose(matches.offsets[0], expected[1], atol=1e-4)
    np.testing.assert_allclose(matches.scores[0], expected[2], atol=1e-6)
    assert matches.labels.dtype == torch.int64
    assert {matches.offsets.dtype, matches.scores.dtype} == {torch.float32}


@pytest.mark.parametrize("count", [0, 2])
def test_no_boxes_is_all_background(count: int) -> None:
    anchors = torch.tensor(LATTICE).float()
    shape = (2, count)
    matches = match(anchors, torch.ones(*shape, 4), torch.zeros(shape).long(), torch.zeros(shape))
    assert not matches.labels.any()
    assert not matches.offsets.any()
    assert (matches.scores == 1).all()
    assert matches.labels.shape == (2, len(anchors))


ANCHORS = [[0.25, 0.25, 0.25, 0.25], [0.75, 0.75, 0.25, 0.25], [0.75, 0.25, 0.25, 0.25]]


def test_a_box_claims_its_best_anchor_below_the_threshold() -> None:
    matches = match_one(ANCHORS, [[0.625, 0.625, 0.6875, 0.6875]])  # IoU 1/16
    assert matches.labels.tolist() == [[0, 1, 0]]
    assert matches.scores.tolist() == [[1, 0.5, 1]]


def test_a_box_that_overlaps_nothing_claims_the_first_anchor() -> None:
    assert match_one(ANCHORS, [[0.0, 0.9375, 0.0625, 1.0]]).labels.tolist() == [[1, 0, 0]]


def test_the_first_of_several_claimants_wins_though_it_overlaps_less() -> None:
    poor, good = [0.125, 0.125, 0.1875, 0.1875], [0.125, 0.125, 0.375, 0.375]
    assert match_one(ANCHORS, [poor, good]).labels.tolist() == [[1, 0, 0]]
    assert match_one(ANCHORS, [good, poor]).labels.tolist() == [[1, 0, 0]]


def test_duplicate_boxes_go_to_the_first() -> None:
    box = [0.625, 0.625, 0.875, 0.875]
    assert match_one(ANCHORS, [box, box]).labels.tolist() == [[0, 1, 0]]


def test_a_claim_beats_the_threshold() -> None:
    anchors = [[0.25, 0.25, 0.25, 0.25]]
    exact, poor = [0.125, 0.125, 0.375, 0.375], [0.5, 0.5, 0.75, 0.75]
    # Both claim the only anchor; the first does, though the second matches it exactly.
    assert match_one(anchors, [poor, exact]).labels.tolist() == [[1]]


def test_equal_overlaps_go_to_the_first_anchor_and_the_first_box() -> None:
    # The box lies half over anchors 0 and 1; both boxes cover anchor 2 alike.
    anchors = [[0.25, 0.5, 0.5, 0.5], [0.75, 0.5, 0.5, 0.5]]
    assert match_one(anchors, [[0.25, 0.25, 0.75, 0.75]]).labels.tolist() == [[1, 0]]
    anchors = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.375], [0.5, 0.5, 0.375, 0.5]]
    twins = [[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 0.75]]
    assert match_one(anchors, twins).labels.tolist() == [[1, 1, 1]]


def test_exactly_the_threshold_is_a_match() -> None:
    # Anchor 0 is claimed by the equal box; anchor 1 is its half, IoU 1/2 exactly.
    anchors = [[0.5, 0.5, 0.5, 0.5], [0.375, 0.5, 0.25, 0.5], [0.375, 0.375, 0.25, 0.25]]
    assert match_one(anchors, [[0.25, 0.25, 0.75, 0.75]]).labels.tolist() == [[1, 1, 0]]


def test_images_are_matched_in_parts_when_the_tables_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    anchors, rng = torch.tensor(LATTICE).float(), torch.Generator().manual_seed(1)
    boxes = torch.rand(7, 5, 4, generator=rng).sort(dim=-1).values
    labels, scores = (
        torch.randint(0, 3, (7, 5), generator=rng),
        torch.rand(7, 5, generator=rng),
    )
    whole = match(anchors, boxes, labels, scores)
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", 2 * 5 * len(anchors))
    for one, other in zip(whole, match(anchors, boxes, labels, scores), strict=True):
        assert torch.equal(one, other)


def test_shapes_are_checked() -> None:
    anchors = torch.tensor(LATTICE).float()
    with pytest.raises(ValueError, match=r"Expected boxes of shape \(B, M, 4\), got \(2, 4\)"):
        match(anchors, torch.zeros(2, 4), torch.zeros(2).long(), torch.zeros(2))
    with pytest.raises(ValueError, match=r"Expected labels of shape \(1, 2\), got \(1, 3\)"):
        match(anchors, torch.zeros(1, 2, 4), torch.zeros(1, 3).long(), torch.zeros(1, 2))
