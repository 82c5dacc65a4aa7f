"""The network as a whole: parameter counts, maps, wiring, types, initialisation, configuration."""

import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kdcli.common.errors import StudentError
from kdcli.student.losses.losses import detection_loss, segmentation_loss
from kdcli.student.losses.matching import match
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS, ModelConfig
from kdcli.student.model.preprocessing import normalise

PARAMETERS = {  # the first three are the public TensorFlow code's
    "blitznet300-x4": 59_379_951,
    "blitznet300": 58_330_841,
    "blitznet512": 68_534_511,
    "blitznet512-x4": 69_583_621,
}
SEGMENTATION_SIDES = {
    "blitznet300-x4": 75,
    "blitznet300": 38,
    "blitznet512-x4": 128,
    "blitznet512": 64,
    "tiny": 32,
    "mobile": 20,
}


@pytest.fixture(scope="module")
def tiny() -> BlitzNet:
    torch.manual_seed(0)
    return BlitzNet(PRESETS["tiny"])


def on_meta(config: ModelConfig) -> BlitzNet:
    """A network without memory behind its parameters: shapes alone."""
    with torch.device("meta"):
        return BlitzNet(config)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    model = on_meta(PRESETS[name])
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == PARAMETERS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_of_every_variant(name: str) -> None:
    config = PRESETS[name]
    model = on_meta(config)
    maps = model.features(torch.empty(2, 3, config.input_size, config.input_size, device="meta"))
    assert tuple(x.shape[-1] for x in maps) == config.map_sides
    assert {x.shape[1] for x in maps} == {config.feature_width}
    output = model(torch.empty(2, 3, config.input_size, config.input_size, device="meta"))
    side = SEGMENTATION_SIDES[name]
    assert output["detection"].offsets.shape == (2, config.num_anchors, 4)
    assert output["detection"].logits.shape == (2, config.num_anchors, 21)
    assert output["segmentation"].shape == (2, 21, side, side)
    assert config.finest_side == side


def test_sides_inside_a_300_pixel_network() -> None:
    model = on_meta(PRESETS["blitznet300"])
    image = torch.empty(1, 3, 300, 300, device="meta")
    assert model.trunk.conv1(image).shape[-1] == 150
    blocks = model.trunk(image)
    for block in model.extra:
        blocks.append(block(blocks[-1]))
    assert [x.shape[-1] for x in blocks] == [75, 38, 19, 10, 5, 3, 2]
    assert [x.shape[1] for x in blocks] == [256, 512, 1024, 2048, 2048, 2048, 2048]


def test_tiny_is_small() -> None:
    assert sum(p.numel() for p in BlitzNet(PRESETS["tiny"]).parameters()) < 1_500_000


def record(model: BlitzNet, image: Tensor) -> tuple[dict[str, Any], Any]:
    """Outputs of all modules by name, and the network's."""
    seen: dict[str, Any] = {}
    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_hook(
                lambda _m, inputs, output, name=name: seen.update({name: (inputs, output)})
            )
        )
    output = model(image)
    for handle in handles:
        handle.remove()
    return seen, output


@torch.no_grad()
def test_wiring(tiny: BlitzNet) -> None:
    """Who feeds whom: skips, pool6, heads and their order."""
    model = tiny.eval()
    seen, output = record(model, torch.randn(1, 3, 128, 128) * 50)
    blocks = [seen[f"trunk.layer{i}"][1] for i in (1, 2, 3, 4)]
    blocks += [seen["extra.0"][1], seen["extra.1"][1]]
    assert torch.equal(seen["extra.0"][0][0], blocks[3])
    assert torch.equal(seen["extra.1"][0][0], blocks[4])
    coarser, maps = blocks[5], []
    for i, skip in enumerate(reversed(blocks[:5])):
        inputs, (decoded, _) = seen[f"reverse.{i}"]
        assert torch.equal(inputs[0], coarser)
        assert torch.equal(inputs[1], skip)
        coarser = decoded
        maps.insert(0, decoded)
    # pool6: the first reverse block's shortcut, averaged before the residual is added.
    maps.append(seen["reverse.0.shortcut"][1].mean(dim=(2, 3), keepdim=True))
    start = 0
    for i, x in enumerate(maps):
        torch.testing.assert_close(seen[f"detection.{i}"][0][0], x)
        offsets, logits = seen[f"detection.{i}"][1]
        assert torch.equal(
            output["detection"].offsets[:, start : start + offsets.shape[1]], offsets
        )
        assert torch.equal(output["detection"].logits[:, start : start + offsets.shape[1]], logits)
        start += offsets.shape[1]
        torch.testing.assert_close(seen[f"segmentation.reduce.{i}"][0][0], x)
    assert start == model.config.num_anchors
    assert torch.equal(output["segmentation"], seen["segmentation.logits"][1])


def test_stem_pads_three_pixels_on_every_side() -> None:
    stem = on_meta(PRESETS["blitznet300"]).trunk.conv1
    assert (stem.kernel_size, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3))


def test_biases_and_batch_norms_are_where_they_belong() -> None:
    model = on_meta(PRESETS["blitznet300"])
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            in_head = name.startswith(("detection", "segmentation"))
            assert (module.bias is not None) == in_head, name
        if isinstance(module, nn.BatchNorm2d):
            assert not name.startswith(("detection", "segmentation"))
            assert (module.eps, module.momentum) == (1e-5, 0.1)


def test_initialisation_has_the_stated_variances() -> None:
    torch.manual_seed(1)
    config = dataclasses.replace(PRESETS["tiny"], feature_width=256)
    model = BlitzNet(config)
    body = model.reverse[1].conv1.weight
    head = model.detection[0].scores.weight
    logits = model.segmentation.logits.weight
    assert body.var().item() * body[0].numel() == pytest.approx(2, rel=0.1)
    assert head.var().item() * head[0].numel() == pytest.approx(0.1, rel=0.1)
    assert logits.var().item() * (logits[0].numel() + 21 * 9) == pytest.approx(2, rel=0.1)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(biases) == 6 * 2 + 6 + 1
    assert not any(bias.any() for bias in biases)


def test_normalise_gives_bgr_minus_the_mean() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    expected = images.numpy()[:, ::-1].astype("float32")
    for i, mean in enumerate([103.062623801, 115.902882574, 123.151630838]):
        expected[:, i] -= mean
    config = ModelConfig()
    assert torch.equal(normalise(images, config), torch.from_numpy(expected))
    assert torch.equal(normalise(images.float(), config), torch.from_numpy(expected))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(2, 4, 5, 3\)"):
        normalise(images.permute(0, 2, 3, 1), config)


def test_another_image_size_is_refused(tiny: BlitzNet) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, 128, 128\), got \(1, 3, 64, 64\)"):
        tiny(torch.zeros(1, 3, 64, 64))


def test_anchors_travel_with_the_model_but_not_in_its_state(tiny: BlitzNet) -> None:
    assert "anchors" not in tiny.state_dict()
    assert BlitzNet(PRESETS["tiny"]).to(torch.device("meta")).anchors.device.type == "meta"


@torch.no_grad()
def test_channels_last_and_bfloat16_change_nothing_but_rounding(tiny: BlitzNet) -> None:
    model = tiny.eval()
    images = torch.randn(2, 3, 128, 128) * 50
    plain = model(images)
    model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    for one, other in zip(tree_leaves(plain), tree_leaves(model(images)), strict=True):
        assert (one - other).abs().max() < 1e-4 * one.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(images)
    for one, other in zip(tree_leaves(plain), tree_leaves(half), strict=True):
        assert other.dtype == torch.bfloat16
        assert (one - other).abs().max() < 0.05 * one.abs().max()


def test_a_tiny_network_learns_a_batch() -> None:
    torch.manual_seed(0)
    model = BlitzNet(PRESETS["tiny"]).to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.7]], [[0.5, 0.4, 0.9, 0.9]]])
    matches = match(model.anchors, boxes, torch.tensor([[3], [7]]), torch.ones(2, 1))
    masks = torch.zeros(2, 32, 32, dtype=torch.long)
    masks[0, 6:22, 3:19], masks[1, 13:29, 16:29] = 3, 7
    history = []
    for _ in range(25):
        output = model(normalise(images, model.config))
        detection = detection_loss(output["detection"].logits, output["detection"].offsets, matches)
        parts = [*detection, segmentation_loss(output["segmentation"], masks)]
        loss = torch.stack(parts).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append([part.item() for part in parts])
    for first, last in zip(history[0], history[-1], strict=True):
        assert last < 0.5 * first
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_configurations_are_plain_values() -> None:
    config = PRESETS["tiny"]
    assert pickle.loads(pickle.dumps(config)) == config
    assert ModelConfig(**dataclasses.asdict(config)) == config
    assert ModelConfig() == PRESETS["blitznet300-x4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk_units": (1, 2, 3)}, "model.trunk_units to be 4 numbers of 1 or more"),
        ({"trunk_widths": (1, 2, 3, 0)}, "model.trunk_widths"),
        ({"input_size": 0}, "model.input_size to be at least 1, got 0"),
        ({"extra_blocks": 0}, "model.extra_blocks to be at least 1, got 0"),
        ({"feature_width": 30}, "model.feature_width to be a multiple of 4, got 30"),
        ({"segmentation_width": 0}, "model.segmentation_width"),
        ({"num_classes": 1}, "model.num_classes to be 2 or more"),
        ({"smallest_scale": 0.2}, "model.min_scale to be above smallest_scale, got 0.1"),
        ({"aspect_ratios": (2.0, -1.0)}, "model.aspect_ratios to be above 0"),
        ({"input_size": 32, "extra_blocks": 3}, "take a larger input or fewer extra blocks"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudentError, match=message):
        ModelConfig(**change)
