"""Losses against their definitions in loops, and by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.student.losses import losses
from kdcli.student.losses.losses import (
    detection_loss,
    parameter_groups,
    segmentation_loss,
    soft_segmentation_loss,
    weight_decay_loss,
)
from kdcli.student.losses.matching import Matches
from kdcli.student.losses.soft_labels import label_vector_target
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS


def slow_cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    """One pixel or anchor: logits (C,), target distribution (C,)."""
    logits = logits - logits.max()
    log_probabilities = logits - math.log(np.exp(logits).sum())
    return float(-sum(t * p for t, p in zip(target, log_probabilities, strict=True)))


def slow_detection_loss(
    logits: np.ndarray, offsets: np.ndarray, matches: Matches
) -> tuple[float, float]:
    batch, anchors, classes = logits.shape
    labels, targets, scores = (table.double().numpy() for table in matches)
    positives, negatives, box = [], [], []
    for image in range(batch):
        for a in range(anchors):
            label, confidence = int(labels[image, a]), scores[image, a]
            entropy = slow_cross_entropy(logits[image, a], np.eye(classes)[label]) * confidence
            if label == 0:
                negatives.append(entropy)
                continue
            positives.append(entropy)
            distance = 0.0
            for predicted, wanted in zip(offsets[image, a], targets[image, a], strict=True):
                d = abs(predicted - wanted)
                distance += 0.5 * d * d if d < 1 else d - 0.5
            box.append(distance * confidence)
    if not positives:
        return 0.0, 0.0
    number = max(0, min(3 * len(positives), anchors - len(positives)))
    hardest = sorted(negatives, reverse=True)[:number]
    return (sum(positives) + sum(hardest)) / len(positives), sum(box) / len(box)


def draw_case(
    seed: int, batch: int, anchors: int, classes: int, share: float
) -> tuple[torch.Tensor, torch.Tensor, Matches]:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, anchors, classes, generator=rng) * 3
    offsets = torch.randn(batch, anchors, 4, generator=rng) * 2
    labels = torch.randint(1, classes, (batch, anchors), generator=rng)
    labels *= torch.rand(batch, anchors, generator=rng) < share
    scores = torch.rand(batch, anchors, generator=rng)
    scores[labels == 0] = 1
    return logits, offsets, Matches(labels, torch.randn(offsets.shape, generator=rng), scores)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    anchors=st.integers(1, 30),
    classes=st.integers(2, 21),
    share=st.sampled_from([0.0, 0.05, 0.2, 0.6, 1.0]),
)
def test_detection_loss_follows_the_definition(
    seed: int, batch: int, anchors: int, classes: int, share: float
) -> None:
    logits, offsets, matches = draw_case(seed, batch, anchors, classes, share)
    loss = detection_loss(logits, offsets, matches)
    expected = slow_detection_loss(logits.double().numpy(), offsets.double().numpy(), matches)
    np.testing.assert_allclose([loss.classification, loss.box], expected, rtol=1e-5, atol=1e-6)


def entropy_of(margin: float) -> float:
    """Cross-entropy of a true logit 0 beside one other logit `margin`."""
    return math.log(1 + math.exp(margin))


def test_mining_is_over_the_whole_batch() -> None:
    # One positive in image 0, so three negatives: the hardest of the batch lie in image 1.
    margins = torch.tensor([[0.0, -3.0, -4.0, -5.0], [2.0, 1.0, 3.0, -6.0]])
    logits = torch.stack([torch.zeros_like(margins), margins], dim=-1)
    labels = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]])
    matches = Matches(labels, torch.zeros(2, 4, 4), torch.ones(2, 4))
    loss = detection_loss(logits, torch.zeros(2, 4, 4), matches)
    expected = entropy_of(0) + entropy_of(1) + entropy_of(2) + entropy_of(3)
    assert loss.classification.item() == pytest.approx(expected, rel=1e-6)


def test_anchors_of_one_image_bound_the_negatives() -> None:
    # Two positives ask for 6 negatives; A - P = 4 - 2 allows 2.
    margins = torch.tensor([[0.0, 0.0, 1.0, 2.0], [3.0, -1.0, -1.0, -1.0]])
    logits = torch.stack([torch.zeros_like(margins), margins], dim=-1)
    labels = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    matches = Matches(labels, torch.zeros(2, 4, 4), torch.ones(2, 4))
    loss = detection_loss(logits, torch.zeros(2, 4, 4), matches)
    expected = (2 * entropy_of(0) + entropy_of(3) + entropy_of(2)) / 2
    assert loss.classification.item() == pytest.approx(expected, rel=1e-6)


def test_more_positives_than_anchors_in_an_image_leave_no_negative() -> None:
    logits, offsets, matches = draw_case(1, 3, 4, 5, 1.0)
    matches.labels[2] = 0
    only = [Matches(*(table[:2] for table in matches)), logits[:2], offsets[:2]]
    both = detection_loss(logits, offsets, matches)
    assert torch.equal(
        both.classification, detection_loss(only[1], only[2], only[0]).classification
    )


def test_box_loss_by_hand_weighs_by_confidence() -> None:
    labels, scores = torch.tensor([[1, 2, 0]]), torch.tensor([[1.0, 0.25, 1.0]])
    matches = Matches(labels, torch.zeros(1, 3, 4), scores)
    offsets = torch.tensor([[[0.5, 0.0, 0.0, 0.0], [2.0, -2.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    loss = detection_loss(torch.zeros(1, 3, 3), offsets, matches)
    assert loss.box.item() == pytest.approx((0.125 + 0.25 * 3.0) / 2)


def test_without_positives_loss_and_gradients_are_zero() -> None:
    logits, offsets, matches = draw_case(5, 2, 9, 4, 0.0)
    logits.requires_grad_()
    offsets.requires_grad_()
    loss = detection_loss(logits, offsets, matches)
    (loss.classification + loss.box).backward()
    assert loss.classification == 0
    assert loss.box == 0
    assert logits.grad is not None
    assert not logits.grad.any()
    assert offsets.grad is not None
    assert not offsets.grad.any()


def test_only_positives_and_mined_negatives_have_gradients() -> None:
    logits, offsets, matches = draw_case(7, 2, 40, 4, 0.1)
    logits.requires_grad_()
    detection_loss(logits, offsets, matches).classification.backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(dim=-1) > 0
    positives = int((matches.labels > 0).sum())
    assert touched[matches.labels > 0].all()
    assert int(touched.sum()) == positives + min(3 * positives, 40 - positives)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), kept=st.lists(st.booleans(), min_size=3, max_size=3))
def test_weights_of_zero_and_one_pick_a_part_of_the_batch(seed: int, kept: list[bool]) -> None:
    logits, offsets, matches = draw_case(seed, 3, 12, 4, 0.2)
    weights, mask = torch.tensor(kept).float(), torch.tensor(kept)
    loss = detection_loss(logits, offsets, matches, weights)
    part = Matches(*(table[mask] for table in matches))
    expected = detection_loss(logits[mask], offsets[mask], part) if any(kept) else (0.0, 0.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 0.2])
def test_a_constant_weight_scales_every_loss(factor: float) -> None:
    weights = torch.full((3,), factor)
    logits, offsets, matches = draw_case(11, 3, 12, 4, 0.2)
    pixels = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(2))
    classes = pixels.roll(1).argmax(dim=1)
    soft = torch.softmax(pixels.roll(2), dim=1)
    pairs = [
        (
            detection_loss(logits, offsets, matches, weights),
            detection_loss(logits, offsets, matches),
        ),
        ([segmentation_loss(pixels, classes, weights)], [segmentation_loss(pixels, classes)]),
        ([soft_segmentation_loss(pixels, soft, weights)], [soft_segmentation_loss(pixels, soft)]),
    ]
    for weighted, plain in pairs:
        for one, other in zip(weighted, plain, strict=True):
            assert one.item() == pytest.approx(factor * other.item(), rel=1e-6)


def test_weights_multiply_before_mining() -> None:
    # The harder negative lies in the image of weight 0.1 and loses its place to the other.
    margins = torch.tensor([[0.0, 3.0], [2.0, -9.0]])
    logits = torch.stack([torch.zeros_like(margins), margins], dim=-1)
    matches = Matches(torch.tensor([[1, 0], [0, 0]]), torch.zeros(2, 2, 4), torch.ones(2, 2))
    loss = detection_loss(logits, torch.zeros(2, 2, 4), matches, torch.tensor([0.1, 1.0]))
    expected = 0.1 * entropy_of(0) + entropy_of(2)
    assert loss.classification.item() == pytest.approx(expected, rel=1e-6)


def test_both_ways_to_mine_agree() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(4), requires_grad=True)
    for number in (-3, 0, 1, 17, 40):
        sums, gradients = [], []
        for wait in (True, False):
            many = torch.tensor(number)
            total = losses._sum_of_largest(values, many, 40, wait_for_device=wait)
            sums.append(total.item())
            gradients.append(torch.autograd.grad(total, values)[0])
        assert sums[0] == pytest.approx(sums[1], rel=1e-6)
        assert torch.equal(gradients[0], gradients[1])


def test_half_precision_inputs_are_computed_in_float32() -> None:
    logits, offsets, matches = draw_case(3, 2, 20, 5, 0.3)
    half = detection_loss(logits.bfloat16(), offsets.bfloat16(), matches)
    same = detection_loss(logits.bfloat16().float(), offsets.bfloat16().float(), matches)
    assert half.classification.dtype == torch.float32
    assert torch.equal(half.classification, same.classification)
    assert torch.equal(half.box, same.box)


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), void=st.sampled_from([0.0, 0.3, 1.0]))
def test_segmentation_loss_follows_the_definition(seed: int, void: float) -> None:
    rng = np.random.default_rng(seed)
    logits, target = rng.normal(size=(2, 4, 3, 5)), rng.integers(0, 4, (2, 3, 5))
    target[rng.random(target.shape) < void] = 255
    entropies = [
        slow_cross_entropy(logits[b, :, y, x], np.eye(4)[target[b, y, x]])
        for b, y, x in np.ndindex(*target.shape)
        if target[b, y, x] != 255
    ]
    expected = float(np.mean(entropies)) if entropies else 0.0
    loss = segmentation_loss(torch.tensor(logits), torch.tensor(target.astype(np.uint8)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_image_of_weight_zero_leaves_the_segmentation_mean() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    loss = segmentation_loss(logits, target, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(loss, segmentation_loss(logits[1:], target[1:]))
    assert segmentation_loss(logits, target, torch.zeros(2)) == 0


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0, 5.0])
def test_soft_loss_follows_the_definition(temperature: float) -> None:
    rng = np.random.default_rng(9)
    logits = rng.normal(size=(2, 21, 3, 4))
    vectors = rng.random((2, 3, 4, 21)) * (rng.random((2, 3, 4, 21)) < 0.1)
    vectors[..., 0] = 0
    total = 0.0
    for b, y, x in np.ndindex(2, 3, 4):
        vector = vectors[b, y, x]
        if not vector.any():  # background, of confidence 1
            vector = np.eye(21)[0]
        exponentials = np.exp(vector / temperature)
        target = exponentials / exponentials.sum()
        total += slow_cross_entropy(logits[b, :, y, x], target)
    target = label_vector_target(torch.tensor(vectors), "softmax", temperature)
    loss = soft_segmentation_loss(torch.tensor(logits), target.permute(0, 3, 1, 2))
    assert loss.item() == pytest.approx(total / 24, rel=1e-5)


def test_shapes_are_checked() -> None:
    logits, offsets, matches = draw_case(3, 2, 20, 5, 0.3)
    with pytest.raises(ValueError, match=r"\(2, 20\), got \(\(2, 19\), \(2, 20\)\)"):
        detection_loss(logits[:, 1:], offsets, matches)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 3\), got \(1, 2, 3\)"):
        segmentation_loss(torch.zeros(1, 4, 3, 3), torch.zeros(1, 2, 3).long())
    with pytest.raises(ValueError, match=r"shape \(1, 4, 3, 3\), got \(1, 5, 3, 3\)"):
        soft_segmentation_loss(torch.zeros(1, 4, 3, 3), torch.zeros(1, 5, 3, 3))


def test_weight_decay_is_on_convolution_weights_alone() -> None:
    model = BlitzNet(PRESETS["tiny"])
    expected, decayed = 0.0, 0
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            assert name.endswith("weight")
            expected += 5e-5 * float((parameter.detach().double() ** 2).sum()) / 2
            decayed += parameter.numel()
    assert weight_decay_loss(model).item() == pytest.approx(expected, rel=1e-5)
    groups = parameter_groups(model)
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]
    assert sizes == [decayed, sum(p.numel() for p in model.parameters()) - decayed]


def test_adam_on_the_groups_trains_on_the_l2_term() -> None:
    torch.manual_seed(0)
    start = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).double()
    images = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    results = []
    for explicit in (True, False):
        model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)).double()
        model.load_state_dict(start.state_dict())
        coefficient = 0.0 if explicit else 0.1
        optimiser = torch.optim.Adam(parameter_groups(model, coefficient), lr=0.01)
        for _ in range(3):
            loss = (model(images) - 1).square().mean()
            if explicit:
                squares = model[0].weight.square().sum()  # type: ignore[operator, union-attr]
                loss = loss + 0.1 * squares / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1])
