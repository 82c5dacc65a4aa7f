"""Instance masks: head, loss against its definition in loops, full-size masks, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.common.detections import Detections
from kdcli.student.losses.instances import (
    MOST,
    Chosen,
    MaskTargets,
    choose,
    instance_loss,
    targets_of_masks,
    targets_of_objects,
)
from kdcli.student.model.instances import InstanceHead, InstanceOutput, Instances

SIDE, COUNT = 6, 3


def drawn(seed: int, batch: int = 2, anchors: int = 12) -> tuple[InstanceOutput, torch.Tensor]:
    """An output, and the numbers of the anchors' boxes."""
    rng = torch.Generator().manual_seed(seed)
    output = InstanceOutput(
        torch.randn(batch, COUNT, SIDE, SIDE, generator=rng).relu(),
        torch.randn(batch, anchors, COUNT, generator=rng).tanh(),
    )
    numbers = torch.randint(1, 4, (batch, anchors), generator=rng)
    return output, numbers * (torch.rand(batch, anchors, generator=rng) < 0.5)


def scenes(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Object maps (2, s, s) with void, and boxes (2, 3, 4) that overlap them somehow."""
    rng = np.random.default_rng(seed)
    objects = rng.choice([0, 1, 2, 3, 255], (2, SIDE, SIDE)).astype(np.uint8)
    low = rng.uniform(0, 0.6, (2, 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.6, (2, 3, 2))], axis=2)
    return torch.from_numpy(objects), torch.from_numpy(boxes).float()


def slow_loss(
    output: InstanceOutput, objects: np.ndarray, boxes: np.ndarray, numbers: np.ndarray,
    weights: np.ndarray,
) -> float:  # fmt: skip
    values = []
    for image, row in zip(*np.nonzero(numbers), strict=True):
        number = numbers[image, row]
        x1, y1, x2, y2 = boxes[image, number - 1]
        weighted = zip(
            output.coefficients[image, row].double().numpy(),
            output.prototypes[image].double().numpy(), strict=True,
        )  # fmt: skip
        logits = sum(c * p for c, p in weighted)
        entropies, seen = [], False
        for y in range(SIDE):
            for x in range(SIDE):
                across, down = (x + 0.5) / SIDE, (y + 0.5) / SIDE
                here = objects[image, y, x]
                if x1 <= across <= x2 and y1 <= down <= y2 and here != 255:
                    probability = 1 / (1 + math.exp(-logits[y, x]))
                    seen |= here == number
                    entropies.append(-math.log(probability if here == number else 1 - probability))
        if seen and weights[image] > 0:
            values.append(weights[image] * np.mean(entropies))
    return float(np.mean(values)) if values else 0.0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(1.0, 1.0), (0.5, 0.0), (0.0, 2.0), (0.0, 0.0)]))
def test_loss_of_ground_truth(seed: int, weights: tuple[float, float]) -> None:
    output, numbers = drawn(seed)
    objects, boxes = scenes(seed)
    chosen = choose(numbers)
    own = boxes.gather(1, (chosen.numbers - 1).clamp(min=0)[..., None].expand(-1, -1, 4))
    targets = targets_of_objects(objects, own, chosen)
    ones = torch.ones_like(chosen.numbers, dtype=torch.float32)
    loss = instance_loss(output, chosen, targets, ones, torch.tensor(weights))
    expected = slow_loss(output, objects.numpy(), boxes.numpy(), numbers.numpy(), np.array(weights))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_confidences_multiply_and_gradients_reach_both_parts() -> None:
    output, numbers = drawn(1)
    output = InstanceOutput(*(part.requires_grad_() for part in output))
    chosen = choose(numbers)
    shape = (*chosen.numbers.shape, SIDE, SIDE)
    targets = MaskTargets(torch.ones(shape), torch.ones(shape))
    whole = instance_loss(output, chosen, targets, torch.ones(chosen.numbers.shape))
    half = instance_loss(output, chosen, targets, torch.full(chosen.numbers.shape, 0.5))
    assert half.item() == pytest.approx(whole.item() / 2)
    whole.backward()
    for part in output:
        assert part.grad is not None
        assert part.grad.abs().sum() > 0


def test_nothing_to_learn_is_zero_with_zero_gradients() -> None:
    output, numbers = drawn(2)
    output = InstanceOutput(*(part.requires_grad_() for part in output))
    chosen = choose(numbers * 0)
    nothing = torch.zeros(*chosen.numbers.shape, SIDE, SIDE)
    loss = instance_loss(
        output, chosen, MaskTargets(nothing, nothing), torch.ones(chosen.numbers.shape)
    )
    loss.backward()
    assert loss.item() == 0
    assert all(part.grad is not None and not part.grad.any() for part in output)


def test_at_most_so_many_positives_always_the_same_and_spread() -> None:
    numbers = torch.zeros(2, 8190, dtype=torch.int64)
    numbers[0, 1000:3000] = 1
    numbers[1, [5, 700]] = 2
    chosen = choose(numbers)
    assert chosen.anchors.shape == (2, MOST)
    assert (chosen.numbers[0] == 1).all()
    assert len(set(chosen.anchors[0].tolist())) == MOST
    assert chosen.anchors[0].min() < 1200
    assert chosen.anchors[0].max() > 2800
    assert set(chosen.anchors[1][chosen.numbers[1] > 0].tolist()) == {5, 700}
    assert (chosen.numbers[1] > 0).sum() == 2
    again = choose(numbers)
    assert torch.equal(chosen.anchors[0], again.anchors[0])


def test_all_positives_where_they_are_few() -> None:
    _, numbers = drawn(4)
    chosen = choose(numbers)
    for own, (anchors, of_boxes) in zip(numbers, zip(*chosen, strict=True), strict=True):
        taken = anchors[of_boxes > 0]
        assert sorted(taken.tolist()) == own.nonzero()[:, 0].tolist()
        assert torch.equal(own[taken], of_boxes[of_boxes > 0])


def test_a_tutors_masks_by_hand() -> None:
    """A mask whose left half is sure, in a box over the right half of the map."""
    masks = torch.zeros(1, 2, 28, 28, dtype=torch.uint8)
    masks[0, 0, :, :14] = 255
    masks[0, 1] = 51
    boxes = torch.tensor([[[0.5, 0.0, 1.0, 1.0], [-1.0, -1.0, 0.5, 0.5]]])
    chosen = Chosen(torch.tensor([[3, 4]]), torch.tensor([[1, 2]]))
    targets = targets_of_masks(masks, boxes, chosen, 8)
    expected = torch.zeros(8, 8)
    expected[:, 4:6] = 1
    assert torch.equal(targets.masks[0, 0].round(), expected)
    assert torch.equal(targets.counted[0, 0], (torch.arange(8) >= 4).float().expand(8, 8))
    corner = torch.zeros(8, 8)
    corner[:4, :4] = 1
    torch.testing.assert_close(targets.masks[0, 1], corner * 51 / 255)
    assert torch.equal(targets.counted[0, 1], corner)
    none = targets_of_masks(masks, boxes, Chosen(chosen.anchors, torch.tensor([[1, 0]])), 8)
    assert none.counted[0, 0].any()
    assert not none.counted[0, 1].any()


def test_shapes_of_the_head() -> None:
    torch.manual_seed(0)
    head = InstanceHead(inputs=8, maps=3, per_cell=6, prototypes=4)
    output = head([torch.randn(2, 8, side, side) for side in (7, 3, 1)])
    assert output.prototypes.shape == (2, 4, 7, 7)
    assert output.coefficients.shape == (2, 6 * (49 + 9 + 1), 4)
    assert output.prototypes.min() >= 0
    assert output.coefficients.abs().max() <= 1


def test_coefficients_are_in_the_anchors_order() -> None:
    """A layer that returns its bias: anchor b of each cell has the values 2 b and 2 b + 1."""
    head = InstanceHead(inputs=1, maps=1, per_cell=3, prototypes=2)
    torch.nn.init.zeros_(head.coefficients[0].weight)
    with torch.no_grad():
        head.coefficients[0].bias.copy_(torch.arange(6) / 10)
    output = head([torch.ones(1, 1, 2, 2)])
    expected = (torch.arange(6).reshape(3, 2) / 10).tanh().repeat(4, 1)
    torch.testing.assert_close(output.coefficients[0], expected)


def instances(size: tuple[int, int], boxes: list[list[float]], seed: int = 0) -> Instances:
    rng = np.random.default_rng(seed)
    count = len(boxes)
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.ones(count, np.int64),
        np.linspace(1, 0.1, count, dtype=np.float32),
    )  # fmt: skip
    prototypes = rng.random((COUNT, SIDE, SIDE), dtype=np.float32)
    coefficients = rng.uniform(-1, 1, (count, COUNT)).astype(np.float32)
    return Instances.of(found, coefficients, prototypes, size)


@pytest.mark.parametrize("size", [(37, 53), (6, 6), (4, 3), (1, 40)])
def test_full_size_masks_are_pytorchs_bilinear_ones(size: tuple[int, int]) -> None:
    height, width = size
    whole = [0.0, 0.0, float(width), float(height)]
    part = [width / 3, height / 4, width / 1.5, height / 1.2]
    said = instances(size, [whole, part])
    sums = np.einsum("nk,khw->nhw", said.coefficients, said.prototypes)
    read = torch.nn.functional.interpolate(
        torch.from_numpy(sums)[None], size, mode="bilinear", align_corners=False
    )[0].numpy()
    first, second = said.masks()
    clear = np.abs(read) > 1e-5
    np.testing.assert_array_equal(first[clear[0]], (read[0] >= 0)[clear[0]])
    x1, y1 = math.floor(part[0]), math.floor(part[1])
    x2, y2 = math.ceil(part[2]), math.ceil(part[3])
    outside = np.ones(size, bool)
    outside[y1:y2, x1:x2] = False
    assert not second[outside].any()
    within = ~outside & clear[1]
    np.testing.assert_array_equal(second[within], (read[1] >= 0)[within])


def test_boxes_beyond_the_image_and_none() -> None:
    said = instances((20, 30), [[-5.0, -5.0, 40.0, 40.0], [31.0, 2.0, 35.0, 4.0]])
    first, second = said.masks()
    assert first.shape == second.shape == (20, 30)
    assert not second.any()
    kept = said.take(np.array([1]))
    assert len(kept) == 1
    np.testing.assert_array_equal(kept.coefficients, said.coefficients[1:])
    assert list(instances((20, 30), []).masks()) == []
