"""Trunks of torchvision: the same numbers as there, sides, freezing, initialisation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.ops import StochasticDepth

from kdcli.common.errors import StudentError
from kdcli.student.losses.losses import parameter_groups
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS, ModelConfig
from kdcli.student.model.torchvision_trunk import (
    PatchConv2d,
    SameMaxPool2d,
    names_of_torchvision,
    torchvision_trunk,
)
from kdcli.student.model.trunks import BLITZNET_RESNET, TORCHVISION, TRUNKS

SQUEEZENET = "squeezenet1_1"


def mobile(**changes: Any) -> ModelConfig:
    """The preset with a narrow decoder."""
    narrow = {"extra_width": 32, "feature_width": 16, "segmentation_width": 4}
    return dataclasses.replace(PRESETS["mobile"], **narrow | changes)


def on_meta(config: ModelConfig) -> BlitzNet:
    """A network without memory behind its parameters: shapes and graphs alone."""
    with torch.device("meta"):
        return BlitzNet(config)


@pytest.mark.parametrize("name", TORCHVISION)
def test_sides_and_widths_are_the_configurations(name: str) -> None:
    """Rounded up, as the anchors are laid out, at even and odd sides."""
    model = on_meta(mobile(trunk=name, extra_blocks=1))
    for side in (64, 75, 98, 101, 160, 300):
        config = mobile(trunk=name, extra_blocks=1, input_size=side)
        blocks = model.trunk(torch.empty(2, 3, side, side, device="meta"))
        for block in model.extra:
            blocks.append(block(blocks[-1]))
        assert tuple(x.shape[-1] for x in blocks) == config.block_sides
        assert tuple(x.shape[-2] for x in blocks) == config.block_sides
        assert tuple(x.shape[1] for x in blocks) == config.block_widths


@pytest.mark.parametrize("name", TORCHVISION)
@torch.no_grad()
def test_maps_are_what_torchvision_computes(name: str) -> None:
    """To the bit, in evaluation and in training."""
    torch.manual_seed(1)
    trunk = torchvision_trunk(name)
    theirs = get_model(name, weights=None)
    assert not theirs.load_state_dict(trunk.state_dict(), strict=False).unexpected_keys
    if name == SQUEEZENET:
        theirs.features[0].padding = (1, 1)
    for module in theirs.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    seen: list[Tensor] = []
    for stage in TORCHVISION[name].stages:
        theirs.get_submodule(stage).register_forward_hook(lambda _m, _x, y: seen.append(y.clone()))
    images = torch.randn(2, 3, 96, 96)
    for training in (False, True):
        seen.clear()
        theirs.train(training)(images)
        for ours, expected in zip(trunk.train(training)(images), seen, strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", SQUEEZENET])
def test_initialisation_is_torchvisions(name: str) -> None:
    torch.manual_seed(3)
    theirs = get_model(name, weights=None).state_dict()
    torch.manual_seed(3)
    ours = BlitzNet(mobile(trunk=name)).trunk.state_dict()
    assert ours.keys() <= theirs.keys() == names_of_torchvision(name)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_training_draws_nothing() -> None:
    """Stochastic depth would, and a resumed run would draw otherwise."""
    trunk, images = torchvision_trunk("efficientnet_b0").train(), torch.randn(2, 3, 64, 64)
    before = torch.get_rng_state()
    trunk(images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("side", [7, 8, 13])
def test_patches_at_the_border_are_filled_with_zeros(side: int) -> None:
    convolution = PatchConv2d(3, 5, 4, stride=4)
    x = torch.randn(1, 3, side, side)
    filled = torch.zeros(1, 3, 16, 16)
    filled[..., :side, :side] = x
    cells = -(-side // 4)
    plain = F.conv2d(filled, convolution.weight, convolution.bias, stride=4)
    torch.testing.assert_close(convolution(x), plain[..., :cells, :cells])


def test_pooling_is_squeezenets_where_the_side_is_even() -> None:
    x = torch.randn(2, 3, 12, 16)
    theirs = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
    assert torch.equal(SameMaxPool2d()(x), theirs(x))
    assert SameMaxPool2d()(x[..., :11, :15]).shape[-2:] == (6, 8)


def test_a_trunk_without_stride_32_gets_one_more_block() -> None:
    """So the maps and anchors are those of the other trunks."""
    config = mobile(trunk=SQUEEZENET, frozen_stages=3)
    assert config.map_sides == mobile().map_sides
    model = BlitzNet(config)
    assert len(model.extra) == config.extra_blocks + 1
    output = model.eval()(torch.randn(1, 3, 160, 160))
    assert output["detection"].offsets.shape == (1, config.num_anchors, 4)


@pytest.mark.parametrize("name", TRUNKS)
def test_frozen_are_the_stages_up_to_a_map(name: str) -> None:
    """Exactly what the map depends on, as its gradients say."""
    trunk = on_meta(mobile(trunk=name, frozen_stages=0)).trunk
    maps = trunk(torch.empty(2, 3, 64, 64, device="meta"))
    names, parameters = zip(*trunk.named_parameters(), strict=True)
    for stage, found in enumerate(maps):
        gradients = torch.autograd.grad(
            found.sum(), parameters, allow_unused=True, retain_graph=True
        )
        used = {key for key, each in zip(names, gradients, strict=True) if each is not None}
        frozen = on_meta(mobile(trunk=name, frozen_stages=stage + 1))
        still = {key for key, p in frozen.named_parameters() if not p.requires_grad}
        assert still == {f"trunk.{key}" for key in used}


@pytest.mark.parametrize("name", [BLITZNET_RESNET, "mobilenet_v2", "shufflenet_v2_x1_0"])
def test_frozen_batch_norms_keep_their_statistics(name: str) -> None:
    model = BlitzNet(mobile(trunk=name, frozen_stages=2, trunk_widths=(8, 8, 8, 8)))
    inside = {key for key, p in model.named_parameters() if not p.requires_grad}
    norms = {
        key: module for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)
    }
    for mode in (True, False, True):
        model.train(mode)
        for key, module in norms.items():
            assert module.training == (mode and f"{key}.weight" not in inside), key
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 3, 160, 160))
    for key in norms:
        same = torch.equal(model.state_dict()[f"{key}.running_var"], before[f"{key}.running_var"])
        assert same == (f"{key}.weight" in inside), key


def test_the_optimiser_has_what_trains_and_decays_layers() -> None:
    model = BlitzNet(mobile(trunk="convnext_tiny", frozen_stages=1))
    decayed, others = (group["params"] for group in parameter_groups(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in [*decayed, *others]} == {id(p) for p in trained}
    decays = {id(p) for p in decayed}
    names = dict(model.named_parameters())
    assert id(names["trunk.features.3.0.block.3.weight"]) in decays  # a linear layer
    assert id(names["trunk.features.3.0.block.3.bias"]) not in decays
    assert len(trained) < len(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "mobilenet_v4"}, r"one of blitznet-resnet, .*'mobilenet_v4'; did you mean mob"),
        ({"frozen_stages": 5}, "model.frozen_stages to be 0 to 4, got 5"),
        ({"frozen_stages": -1}, "model.frozen_stages to be 0 to 4, got -1"),
        ({"trunk": SQUEEZENET, "frozen_stages": 4}, "model.frozen_stages to be 0 to 3, got 4"),
    ],
)
def test_impossible_trunks_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudentError, match=message):
        mobile(**change)
