"""Anchors, matching, losses and the forward pass against numbers of the public TensorFlow code."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdcli.student.losses.losses import (
    detection_loss,
    segmentation_loss,
    soft_segmentation_loss,
    weight_decay_loss,
)
from kdcli.student.losses.matching import Matches, match
from kdcli.student.losses.soft_labels import label_vector_target
from kdcli.student.model.anchors import make_anchors
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS, ModelConfig
from kdcli.student.model.preprocessing import normalise

NUMBERS = json.loads((Path(__file__).parent / "data" / "reference_numbers.json").read_text())
STAGES = [name for name in NUMBERS["networks"] if "stages" in NUMBERS["networks"][name]]


@pytest.mark.parametrize("name", NUMBERS["anchors"])
def test_anchors(name: str) -> None:
    expected = NUMBERS["anchors"][name]
    anchors = make_anchors(PRESETS[name])
    assert len(anchors) == expected["count"]
    np.testing.assert_allclose(anchors[expected["rows"]], expected["values"], atol=1e-6)
    np.testing.assert_allclose(anchors.double().sum(dim=0), expected["sums"], rtol=1e-6)


@pytest.mark.parametrize("name", NUMBERS["matching"])
@pytest.mark.parametrize("case", NUMBERS["matching"]["blitznet300"])
def test_matching(name: str, case: str) -> None:
    expected = NUMBERS["matching"][name][case]
    boxes = torch.tensor(expected["boxes"]).reshape(1, -1, 4)
    labels = torch.tensor(expected["labels"]).reshape(1, -1).long()
    scores = torch.tensor(expected["confidences"]).reshape(1, -1)
    matches = match(make_anchors(PRESETS[name]), boxes, labels, scores)
    positives = matches.labels[0].nonzero().flatten()
    assert positives.tolist() == expected["anchors"]
    assert matches.labels[0, positives].tolist() == expected["matched_labels"]
    found = matches.scores[0, positives]
    np.testing.assert_allclose(found, expected["matched_confidences"], atol=1e-6)
    offsets = np.array(expected["offsets"]).reshape(-1, 4)
    np.testing.assert_allclose(matches.offsets[0, positives], offsets, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("expected", NUMBERS["losses"]["detection"])
def test_detection_losses(expected: dict[str, Any]) -> None:
    seed, batch, anchors, classes, share = expected["case"]
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((batch, anchors, classes)) * 3
    offsets = rng.standard_normal((batch, anchors, 4)) * 2
    targets = rng.standard_normal((batch, anchors, 4)) * 2
    labels = rng.integers(1, classes, (batch, anchors)) * (rng.random((batch, anchors)) < share)
    scores = np.where(labels > 0, rng.random((batch, anchors)), 1)
    assert (labels > 0).sum() == expected["positives"]
    tables = [torch.tensor(table).float() for table in (logits, offsets, targets, scores)]
    for kind, weight in (("tutor", tables[3]), ("gt", torch.ones(batch, anchors))):
        loss = detection_loss(
            tables[0], tables[1], Matches(torch.tensor(labels), tables[2], weight)
        )
        np.testing.assert_allclose(loss, expected[kind], rtol=1e-5)


@pytest.mark.parametrize("expected", NUMBERS["losses"]["segmentation"])
def test_segmentation_loss(expected: dict[str, Any]) -> None:
    rng = np.random.default_rng(expected["seed"])
    logits = (rng.standard_normal((2, 9, 11, 21)) * 3).transpose(0, 3, 1, 2)
    target = rng.integers(0, 21, (2, 9, 11))
    target[rng.random(target.shape) < expected["void"]] = 255
    loss = segmentation_loss(torch.tensor(logits), torch.tensor(target))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("expected", NUMBERS["losses"]["soft"])
def test_soft_segmentation_loss(expected: dict[str, Any]) -> None:
    rng = np.random.default_rng(expected["seed"])
    logits = (rng.standard_normal((2, 9, 11, 21)) * 3).transpose(0, 3, 1, 2)
    vectors = rng.random((2, 9, 11, 21)) * (rng.random((2, 9, 11, 21)) < 0.1)
    vectors[..., 0] = 0
    vectors[0, :4] = 0
    # The public code takes the softmax of whatever it is fed, here with vectors that are all zero;
    # ours reads those as background, so its softmax is compared where there is something else.
    target = torch.softmax(torch.tensor(vectors) / expected["temperature"], dim=-1)
    ours = label_vector_target(torch.tensor(vectors), "softmax", expected["temperature"])
    covered = torch.tensor(vectors).any(dim=-1)
    torch.testing.assert_close(ours[covered].double(), target[covered], atol=1e-6, rtol=0)
    loss = soft_segmentation_loss(torch.tensor(logits), target.permute(0, 3, 1, 2))
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)


def drawn_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that the reference run gave to a tensor, by our name of it."""
    uniform = np.random.default_rng(zlib.crc32(name.encode())).random(shape, dtype=np.float32)
    if len(shape) == 4:
        return (2 * uniform - 1) * np.float32(np.sqrt(6 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return uniform + np.float32(0.5)
    if name.endswith("weight"):
        return (uniform + 1) * np.float32(0.5)
    return (2 * uniform - 1) * np.float32(0.2)


@pytest.fixture(scope="module", params=STAGES)
def network(request: pytest.FixtureRequest) -> tuple[dict[str, Any], BlitzNet]:
    name = request.param
    with torch.device("meta"):
        model = BlitzNet(PRESETS[name])
    model.to_empty(device="cpu")
    model.anchors = make_anchors(PRESETS[name])
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                value.copy_(torch.from_numpy(drawn_weights(key, tuple(value.shape))))
    return NUMBERS["networks"][name], model


def drawn_images(config: ModelConfig) -> Tensor:
    side = config.input_size
    images = np.random.default_rng(7).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    return normalise(torch.from_numpy(images).permute(0, 3, 1, 2), config)


@torch.no_grad()
def test_forward_pass_stage_by_stage(network: tuple[dict[str, Any], BlitzNet]) -> None:
    expected, model = network
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name, module in model.named_modules():
        if name in expected["stages"]:
            module.register_forward_hook(keep(name))
    maps_of = model.detection[-1].register_forward_pre_hook
    maps_of(lambda _module, inputs: seen.update(pool6=inputs[0]))
    output = model.eval()(drawn_images(model.config)[:1])
    anchors = output["detection"]
    seen |= {**output, **anchors._asdict(), "scores": anchors.logits}
    for name, stage in expected["stages"].items():
        values = seen[name].contiguous()
        assert list(values.shape) == stage["shape"], name
        chosen = np.random.default_rng(zlib.crc32(name.encode())).integers(0, values.numel(), 16)
        difference = values.flatten()[chosen] - torch.tensor(stage["values"])
        assert difference.abs().max() < 3e-5 * stage["rms"], name


@torch.no_grad()
def test_running_statistics_after_one_step(network: tuple[dict[str, Any], BlitzNet]) -> None:
    expected, model = network
    trunk = model.train().trunk
    trunk.bn1(trunk.conv1(drawn_images(model.config)))
    for name, values in expected["after_one_step"].items():
        found = model.state_dict()[name][: len(values)]
        np.testing.assert_allclose(found, values, rtol=2e-5, atol=2e-5)


def test_weight_decay_and_parameters(network: tuple[dict[str, Any], BlitzNet]) -> None:
    expected, model = network
    assert sum(p.numel() for p in model.parameters()) == expected["parameters"]
    assert weight_decay_loss(model).item() == pytest.approx(expected["weight_decay"], rel=1e-5)
