"""Instance masks: head, loss against its definition in loops, full-size masks, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.common.detections import Detections
from kdcli.student.data.tables import BoxTable, InstanceTable
from kdcli.student.losses.instances import (
    MOST,
    choose,
    instance_loss,
    targets_of_masks,
    targets_of_objects,
)
from kdcli.student.losses.matching import match
from kdcli.student.model.instances import InstanceHead, InstanceOutput, MaskedDetections

SIDE, COUNT = 6, 3


GRID = torch.tensor(
    [
        (x, y, w, h)
        for x in (0.25, 0.5, 0.75)
        for y in (0.3, 0.7)
        for w, h in ((0.3, 0.5), (0.5, 0.3))
    ]
)
"""Twelve anchors."""


def drawn(seed: int) -> InstanceOutput:
    """What a network might say of a batch of two."""
    rng = torch.Generator().manual_seed(seed)
    return InstanceOutput(
        torch.randn(2, COUNT, SIDE, SIDE, generator=rng).relu().requires_grad_(),
        torch.randn(2, len(GRID), COUNT, generator=rng).tanh().requires_grad_(),
    )


def scenes(seed: int) -> tuple[torch.Tensor, BoxTable]:
    """Object maps (2, s, s) with void, and boxes that overlap them somehow, some padding."""
    rng = np.random.default_rng(seed)
    objects = rng.choice([0, 1, 2, 3, 255], (2, SIDE, SIDE)).astype(np.uint8)
    low = rng.uniform(0, 0.6, (2, 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.4, (2, 3, 2))], axis=2)
    labels = torch.tensor([[1, 2, 3], [1, 2, 0]])
    scores = torch.from_numpy(rng.uniform(0.1, 1, (2, 3))).float()
    return torch.from_numpy(objects), BoxTable(torch.from_numpy(boxes).float(), labels, scores)


def slow_loss(
    output: InstanceOutput, objects: np.ndarray, table: BoxTable, weights: tuple[float, float]
) -> float:
    """Anchor by anchor and pixel by pixel."""
    numbers = match(GRID, table.boxes, table.labels, table.scores).labels
    values = []
    for image, row in numbers.nonzero().tolist():
        number = int(numbers[image, row])
        weighted = zip(
            output.coefficients[image, row].double().tolist(),
            output.prototypes[image].detach().double().numpy(), strict=True,
        )  # fmt: skip
        logits = sum(c * p for c, p in weighted)
        entropies, seen = slow_entropies(
            logits, objects[image], table.boxes[image, number - 1].tolist(), number
        )
        if seen and weights[image] > 0:
            factor = weights[image] * float(table.scores[image, number - 1])
            values.append(factor * np.mean(entropies))
    return float(np.mean(values)) if values else 0.0


def slow_entropies(
    logits: np.ndarray, objects: np.ndarray, box: list[float], number: int
) -> tuple[list[float], bool]:
    x1, y1, x2, y2 = box
    entropies, seen = [], False
    for y in range(SIDE):
        for x in range(SIDE):
            across, down, here = (x + 0.5) / SIDE, (y + 0.5) / SIDE, objects[y, x]
            if x1 <= across <= x2 and y1 <= down <= y2 and here != 255:
                probability = 1 / (1 + math.exp(-logits[y, x]))
                seen |= bool(here == number)
                entropies.append(-math.log(probability if here == number else 1 - probability))
    return entropies, seen


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([(1.0, 1.0), (0.5, 0.0), (0.0, 2.0), (0.0, 0.0)]))
def test_loss_of_ground_truth(seed: int, weights: tuple[float, float]) -> None:
    output = drawn(seed)
    objects, table = scenes(seed)
    targets = targets_of_objects(GRID, table, objects)
    loss = instance_loss(output, targets, torch.tensor(weights))
    expected = slow_loss(output, objects.numpy(), table, weights)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_gradients_reach_both_parts() -> None:
    output = drawn(1)
    objects, table = scenes(1)
    instance_loss(output, targets_of_objects(GRID, table, objects)).backward()
    for part in output:
        assert part.grad is not None
        assert part.grad.abs().sum() > 0


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_learn_is_zero_with_zero_gradients(count: int) -> None:
    output = drawn(2)
    objects, table = scenes(2)
    nothing = BoxTable(table.boxes[:, :count], table.labels[:, :count] * 0, table.scores[:, :count])
    tutors = InstanceTable(torch.zeros(2, count, 28, 28, dtype=torch.uint8), nothing)
    for targets in (
        targets_of_objects(GRID, nothing, objects), targets_of_masks(GRID, tutors, SIDE),
    ):  # fmt: skip
        loss = instance_loss(output, targets)
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
    numbers = torch.randint(0, 3, (2, 12), generator=torch.Generator().manual_seed(4))
    chosen = choose(numbers)
    for own, anchors, of_boxes in zip(numbers, chosen.anchors, chosen.numbers, strict=True):
        taken = anchors[of_boxes > 0]
        assert sorted(taken.tolist()) == own.nonzero()[:, 0].tolist()
        assert torch.equal(own[taken], of_boxes[of_boxes > 0])


def test_a_tutors_masks_by_hand() -> None:
    """The left half of a mask is sure, in a box over the right half of the map; another beyond."""
    masks = torch.zeros(1, 2, 28, 28, dtype=torch.uint8)
    masks[0, 0, :, :14] = 255
    masks[0, 1] = 51
    boxes = torch.tensor([[[0.5, 0.0, 1.0, 1.0], [-1.0, -1.0, 0.5, 0.5]]])
    table = BoxTable(boxes, torch.tensor([[1, 2]]), torch.tensor([[0.7, 0.4]]))
    anchors = torch.tensor([[0.75, 0.5, 0.5, 1.0], [0.25, 0.25, 0.5, 0.5]])
    targets = targets_of_masks(anchors, InstanceTable(masks, table), 8)
    first, second = (targets.anchors[0] == row for row in (0, 1))
    half = (torch.arange(8) >= 4).float().expand(8, 8)
    assert torch.equal(targets.counted[0, first][0], half)
    expected = torch.zeros(8, 8)
    expected[:, 4:6] = 1
    assert torch.equal(targets.masks[0, first][0].round(), expected)
    corner = torch.zeros(8, 8)
    corner[:4, :4] = 1
    assert torch.equal(targets.counted[0, second][0], corner)
    torch.testing.assert_close(targets.masks[0, second][0], corner * 51 / 255)
    torch.testing.assert_close(targets.scores[0, first], torch.tensor([0.7]))
    torch.testing.assert_close(targets.scores[0, second], torch.tensor([0.4]))


def test_shapes_of_the_head() -> None:
    torch.manual_seed(0)
    head = InstanceHead(inputs=8, per_cell=6, prototypes=4)
    output = head([torch.randn(2, 8, side, side) for side in (7, 3, 1)])
    assert output.prototypes.shape == (2, 4, 7, 7)
    assert output.coefficients.shape == (2, 6 * (49 + 9 + 1), 4)
    assert output.coefficients.abs().max() <= 1


def test_coefficients_are_in_the_anchors_order() -> None:
    """A cell of value v says v / 10 + b / 100 for place b, of an anchor's two."""
    head = InstanceHead(inputs=1, per_cell=3, prototypes=2)
    torch.nn.init.constant_(head.coefficients.weight, 0.1)
    with torch.no_grad():
        head.coefficients.bias.copy_(torch.arange(6) / 100)
    maps = [torch.arange(4.0).reshape(1, 1, 2, 2), torch.tensor([[[[4.0]]]])]
    output = head(maps)
    expected = [
        [cell / 10 + (2 * anchor + k) / 100 for k in range(2)]
        for cell in range(5)
        for anchor in range(3)
    ]
    torch.testing.assert_close(output.coefficients[0], torch.tensor(expected).tanh())


def instances(size: tuple[int, int], boxes: list[list[float]], seed: int = 0) -> MaskedDetections:
    rng = np.random.default_rng(seed)
    count = len(boxes)
    found = Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.ones(count, np.int64),
        np.linspace(1, 0.1, count, dtype=np.float32),
    )  # fmt: skip
    prototypes = rng.random((COUNT, SIDE, SIDE), dtype=np.float32)
    coefficients = rng.uniform(-1, 1, (count, COUNT)).astype(np.float32)
    return MaskedDetections(found.boxes, found.labels, found.scores, coefficients, prototypes, size)


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
