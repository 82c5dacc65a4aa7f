"""Weights in bfloat16 by one kernel are autocast's, and so is what is learned with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from kdcli.student.config.machine import fitted
from kdcli.student.config.toml import run_config
from kdcli.student.measure import drawn_batch
from kdcli.student.training.half_weights import half_weights, product_weights
from kdcli.student.training.trainer import Trainer

CPU = torch.device("cpu")


def test_layouts_stay_and_what_is_no_weight_of_a_product_is_left() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    network.to(memory_format=torch.channels_last)
    halves = half_weights(product_weights(network))
    assert sorted(halves) == ["0.bias", "0.weight", "3.bias", "3.weight"]
    for name, half in halves.items():
        own = network.get_parameter(name)
        assert torch.equal(half, own.bfloat16())
        assert half.stride() == own.stride()


def test_weights_that_took_no_part_get_no_gradient() -> None:
    network = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    halves = half_weights(product_weights(network))
    halves["0.weight"].sum().backward()
    used, rest = network[0].weight.grad, network[1].weight.grad
    assert rest is None
    assert used is not None
    assert used.dtype == torch.float32


@pytest.mark.parametrize(
    ("preset", "taught"),
    [("tiny", (1, 1)), ("tiny", (0, 1)), ("mobile", (1, 1))],
    ids=["both tasks", "one of them", "frozen stages"],
)
def test_steps_are_autocasts(preset: str, taught: tuple[int, int]) -> None:
    """Loss and weights after two steps, bit by bit."""
    changes = ["optim.batch_size=2", "optim.bf16=true", "init.trunk="]
    config = fitted(run_config(preset, changes), CPU)
    batch = drawn_batch(config, 2)
    terms = {"detection_gt": taught[0], "segmentation_gt": taught[1]}
    fractions = {term: share * terms.get(term, 1) for term, share in batch.fractions.items()}
    batch = replace(batch, fractions=fractions)
    learned = []
    for halved in (False, True):
        trainer = Trainer(config, CPU)
        trainer.to_device()
        assert trainer.loss.halved
        trainer.loss.halved = halved
        losses = [trainer.update([batch])[0] for _ in range(2)]
        learned.append((torch.stack(losses), trainer.model.state_dict()))
    (plain, before), (fast, after) = learned
    assert torch.equal(plain, fast)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_network_computes_with_what_it_is_given() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.autocast("cpu", torch.bfloat16):
        said = functional_call(network, half_weights(product_weights(network)), (torch.ones(3, 2),))
        assert torch.equal(said, network(torch.ones(3, 2)))
