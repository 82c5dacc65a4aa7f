"""Inference against a slow version of its rule, and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.student.model.anchors import decode_boxes, encode_boxes
from kdcli.student.model.decode import (
    AnchorOutput,
    BoxLimits,
    all_at_once,
    detect,
    detected_rows,
    one_by_one,
    segment,
)


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0


def slow_detect(
    logits: np.ndarray, boxes: np.ndarray, limits: BoxLimits
) -> list[tuple[float, int, list[float]]]:
    """(A, C) logits and (A, 4) clipped boxes -> (confidence, class, box), best first."""
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    found = []
    for label in range(1, logits.shape[1]):
        order = sorted(range(len(logits)), key=lambda a: -probabilities[a, label])
        order = [a for a in order if probabilities[a, label] > limits.score][: limits.before_nms]
        kept: list[int] = []
        for a in order:
            if all(overlap(boxes[a], boxes[k]) <= limits.nms_iou for k in kept):
                kept.append(a)
        for a in kept[: limits.after_nms]:
            found.append((float(probabilities[a, label]), label, list(boxes[a])))
    return sorted(found, key=lambda entry: -entry[0])[: limits.per_image]


def random_output(seed: int, batch: int, anchors: int) -> tuple[AnchorOutput, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.rand(anchors, 2, generator=rng)
    sizes = torch.rand(anchors, 2, generator=rng) * 0.5 + 0.1
    logits = torch.randn(batch, anchors, 5, generator=rng) * 3
    offsets = torch.randn(batch, anchors, 4, generator=rng)
    return AnchorOutput(offsets, logits), torch.cat([centres, sizes], dim=1)


def slow_boxes(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    boxes = []
    for (tx, ty, tw, th), (x, y, w, h) in zip(offsets, anchors, strict=True):
        cx, cy = x + tx * 0.1 * w, y + ty * 0.1 * h
        width, height = w * math.exp(tw * 0.2), h * math.exp(th * 0.2)
        boxes.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    return np.clip(boxes, 0, 1)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    anchors=st.integers(1, 60),
    limits=st.builds(
        BoxLimits,
        score=st.sampled_from([0.01, 0.3]),
        before_nms=st.sampled_from([400, 10]),
        nms_iou=st.sampled_from([0.45, 0.2]),
        after_nms=st.sampled_from([50, 3]),
        per_image=st.sampled_from([200, 8]),
    ),
)
def test_detection_follows_the_rule(seed: int, anchors: int, limits: BoxLimits) -> None:
    output, table = random_output(seed, 2, anchors)
    sizes = [(100, 200), (333, 500)]
    results = detect(output, table, sizes, limits)
    for i, (result, (height, width)) in enumerate(zip(results, sizes, strict=True)):
        boxes = slow_boxes(output.offsets[i].double().numpy(), table.double().numpy())
        expected = slow_detect(output.logits[i].double().numpy(), boxes, limits)
        np.testing.assert_allclose(result.scores, [e[0] for e in expected], atol=1e-5)
        assert result.labels.tolist() == [e[1] for e in expected]
        scale = np.array([width, height, width, height])
        wanted = np.array([e[2] for e in expected]).reshape(-1, 4) * scale
        np.testing.assert_allclose(result.boxes, wanted, atol=1e-2)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    groups=st.integers(1, 4),
    boxes=st.integers(0, 80),
    spread=st.sampled_from([0.01, 0.1, 1.0]),
)
def test_both_ways_of_suppression_keep_the_same(
    seed: int, groups: int, boxes: int, spread: float
) -> None:
    """In crowds, too, where one box keeps another that keeps a third, and of empty boxes."""
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(groups, boxes, 2, generator=rng) * spread
    sizes = torch.rand(groups, boxes, 2, generator=rng)
    sizes *= torch.rand(groups, boxes, 1, generator=rng) > 0.1
    table = torch.cat([corners, (corners + sizes).clamp(max=1)], dim=2)
    scores = torch.rand(groups, boxes, generator=rng).sort(dim=1, descending=True).values
    alive = scores > 0.2
    kept = all_at_once(table, alive, 0.45)
    assert kept.tolist() == one_by_one(table, scores, alive, 0.45).tolist()
    assert not boxes or kept[:, 0].tolist() == alive[:, 0].tolist()


def test_an_image_is_told_the_same_alone_as_among_others() -> None:
    output, anchors = random_output(3, 5, 300)
    sizes = [(100, 200 + i) for i in range(5)]
    together = detect(output, anchors, sizes)
    for i, result in enumerate(together):
        own = AnchorOutput(output.offsets[i : i + 1], output.logits[i : i + 1])
        (alone,) = detect(own, anchors, sizes[i : i + 1])
        assert len(result.boxes) > 20
        np.testing.assert_array_equal(alone.boxes, result.boxes)
        np.testing.assert_array_equal(alone.labels, result.labels)


def test_the_default_limits_are_the_papers() -> None:
    limits = BoxLimits()
    numbers = (limits.score, limits.before_nms, limits.nms_iou, limits.after_nms, limits.per_image)
    assert numbers == (0.01, 400, 0.45, 50, 200)


def certain(labels: list[int], classes: int = 5) -> torch.Tensor:
    return torch.eye(classes)[torch.tensor(labels)][None] * 20


def test_boxes_are_pixels_of_the_original_image_clipped_to_it() -> None:
    anchors = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]])
    wanted = torch.tensor([[0.25, 0.5, 0.75, 0.75], [-0.2, 0.8, 0.2, 1.3]])
    output = AnchorOutput(encode_boxes(wanted, anchors)[None], certain([3, 4]))
    (result,) = detect(output, anchors, [(200, 400)])
    expected = [[100.0, 100.0, 300.0, 150.0], [0.0, 160.0, 80.0, 200.0]]
    np.testing.assert_allclose(result.boxes, expected, atol=1e-3)
    assert result.labels.tolist() == [3, 4]
    assert result.labels.dtype == np.int64
    assert result.boxes.dtype == result.scores.dtype == np.float32


def test_suppression_is_within_a_class() -> None:
    anchors = torch.tensor([[0.5, 0.5, 0.4, 0.4]] * 3)
    output = AnchorOutput(torch.zeros(1, 3, 4), certain([1, 1, 2]))
    (result,) = detect(output, anchors, [(100, 100)])
    assert sorted(result.labels.tolist()) == [1, 2]


def test_background_gives_no_detections() -> None:
    anchors = torch.tensor([[0.5, 0.5, 0.4, 0.4]] * 3)
    output = AnchorOutput(torch.zeros(1, 3, 4), certain([0, 0, 0]))
    (result,) = detect(output, anchors, [(100, 100)])
    assert result.boxes.shape == (0, 4)
    assert result.labels.shape == result.scores.shape == (0,)


def test_half_precision_output_is_decoded_in_float32() -> None:
    output, anchors = random_output(1, 1, 20)
    half = AnchorOutput(output.offsets.bfloat16(), output.logits.bfloat16())
    same = AnchorOutput(half.offsets.float(), half.logits.float())
    (one,), (other,) = (detect(o, anchors, [(300, 300)]) for o in (half, same))
    assert np.array_equal(one.boxes, other.boxes)
    assert len(one.boxes) > 0


def test_sizes_must_fit_the_batch() -> None:
    output, anchors = random_output(1, 2, 5)
    with pytest.raises(ValueError, match="Expected 2 image sizes, got 1"):
        detect(output, anchors, [(300, 300)])


def test_label_map_is_the_arg_max_of_resized_logits() -> None:
    logits = torch.zeros(3, 1, 2)
    logits[1, 0, 0], logits[2, 0, 1] = 3.0, 2.0
    # At x = 0, .5, 1, 1.5 of the input: class 1 has 3, 1.5, 0, 0 and class 2 has 0, 1, 2, 2.
    result = segment(logits, (2, 4))
    assert result.dtype == torch.uint8
    assert result.tolist() == [[1, 1, 2, 2]] * 2


def test_rows_name_the_anchor_that_said_them() -> None:
    output, table = random_output(5, 3, 60)
    rows = detected_rows(output, table, BoxLimits())
    boxes = decode_boxes(output.offsets, table).clamp(0, 1)
    probabilities = output.logits.softmax(dim=-1)
    image, place = (rows[..., 5] > 0).nonzero(as_tuple=True)
    assert len(image) > 60
    box, label, score, anchor = rows[image, place].split([4, 1, 1, 1], dim=1)
    label, anchor = label[:, 0].long(), anchor[:, 0].long()
    assert torch.equal(boxes[image, anchor], box)
    assert torch.equal(probabilities[image, anchor, label], score[:, 0])
