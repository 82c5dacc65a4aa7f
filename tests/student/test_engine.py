"""What the engine says is what the network says, folded or not."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from kdcli.student.config.toml import run_config
from kdcli.student.data.geometry import Transform
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.decode import detect, segment
from kdcli.student.model.folding import folded
from kdcli.student.model.preprocessing import normalise
from kdcli.student.runs.load import load_run
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

LIST = "Segmentation/trainval"
SMALL = (
    "model.trunk_widths=[8,8,8,8] model.stem_width=8 model.trunk_units=[1,2,1,1] "
    "model.extra_width=32 model.feature_width=32 model.input_size=96"
)
NETWORKS = {
    "tiny": "init.trunk=sample",
    "mobile": "model.frozen_stages=0 model.input_size=96",
    "blitznet300-x4": SMALL + " model.extra_blocks=1 model.smallest_scale=.08 model.min_scale=.16",
}


@pytest.fixture(scope="module", params=NETWORKS)
def model(
    request: pytest.FixtureRequest, devkit: Devkit, tmp_path_factory: pytest.TempPathFactory
) -> BlitzNet:
    """Trained for some steps: batch norms whose statistics and weights are no longer 0 and 1."""
    name = str(request.param)
    settings = f"""
        {NETWORKS[name]} data.list={LIST} optim.steps=12 optim.batch_size=4 optim.lr=2e-3
        optim.milestones=[10] runtime.workers=0 runtime.device=cpu
    """
    out = tmp_path_factory.mktemp("runs") / name
    train(run_config(name, settings.split()), devkit, None, out)
    return load_run(out).model


@pytest.fixture(scope="module")
def sizes(devkit: Devkit) -> list[tuple[int, int]]:
    return [devkit.image_size(image_id) for image_id in devkit.image_ids(LIST)[:5]]


@pytest.fixture(scope="module")
def images(devkit: Devkit, model: BlitzNet, sizes: list[tuple[int, int]]) -> torch.Tensor:
    side, ids = model.config.input_size, devkit.image_ids(LIST)[:5]
    resized = [
        Transform.whole(*size, side).image(devkit.read_image(image_id))
        for image_id, size in zip(ids, sizes, strict=True)
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


@torch.no_grad()
def said(model: BlitzNet, images: torch.Tensor) -> dict[str, Any]:
    output: dict[str, Any] = model.eval()(normalise(images, model.config))
    return output


def test_it_says_what_the_network_says(
    model: BlitzNet, images: torch.Tensor, sizes: list[tuple[int, int]]
) -> None:
    whole = said(model, images)
    for here, there in zip(
        tree_leaves(Engine(model).outputs(images)), tree_leaves(whole), strict=True
    ):
        scale = float(there.abs().max())
        assert scale > 0.1  # it did learn something
        assert float((here - there).abs().max()) < 1e-5 * scale
    for i, each in enumerate(Engine(model)(images, sizes)):
        found, class_map = each["detections"], each["class_map"]
        assert len(found) > 0
        wanted = segment(whole["segmentation"][i], sizes[i]).numpy()
        assert class_map.shape == sizes[i]
        assert class_map.dtype == np.uint8
        assert np.mean(class_map == wanted) > 0.9999  # but for ties


def test_boxes_are_those_of_the_network(
    model: BlitzNet, images: torch.Tensor, sizes: list[tuple[int, int]]
) -> None:
    """Compared as sets: near scores may change places. Rounding may also turn an overlap over the
    limit of the suppression, and with it a few boxes of a hundred."""
    expected = detect(said(model, images)["detection"], model.anchors, sizes)
    there = 0
    for wanted, each in zip(expected, Engine(model)(images, sizes), strict=True):
        found = each["detections"]
        for box, label, score in zip(wanted.boxes, wanted.labels, wanted.scores, strict=True):
            same = (found.labels == label) & (np.abs(found.scores - score) < 1e-4)
            there += bool((np.abs(found.boxes[same] - box).max(axis=1) < 0.01).any())
    assert there >= 0.97 * sum(len(wanted) for wanted in expected) > 0


def test_boxes_are_those_of_what_it_says(
    model: BlitzNet, images: torch.Tensor, sizes: list[tuple[int, int]]
) -> None:
    engine = Engine(model)
    expected = detect(engine.outputs(images)["detection"], model.anchors, sizes)
    for wanted, each in zip(expected, engine(images, sizes), strict=True):
        found = each["detections"]
        assert np.array_equal(found.boxes, wanted.boxes)
        assert np.array_equal(found.labels, wanted.labels)
        assert np.array_equal(found.scores, wanted.scores)


def test_bfloat16_says_the_same_but_for_its_rounding(model: BlitzNet, images: torch.Tensor) -> None:
    whole = said(model, images)
    half = Engine(model, InferenceSettings(bf16=True)).outputs(images)
    assert half["segmentation"].dtype == torch.bfloat16
    for here, there in zip(tree_leaves(half), tree_leaves(whole), strict=True):
        error = (here.float() - there).square().mean().sqrt() / there.square().mean().sqrt()
        assert 1e-5 < float(error) < 0.05


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("trunk", ["blitznet-resnet", "mobilenet_v2", "mobilenet_v3_large"])
def test_no_batch_norm_is_left(trunk: str) -> None:
    model = BlitzNet(ModelConfig(input_size=96, trunk=trunk, extra_blocks=1, extra_width=64))
    before = norms(model)
    assert before > 40
    assert norms(folded(model)) == 0
    assert norms(model) == before
    assert model.training


def test_what_was_made_ready_does_not_follow_the_network(
    model: BlitzNet, images: torch.Tensor
) -> None:
    learning = copy.deepcopy(model)
    engine = Engine(learning)
    before = engine.outputs(images)
    with torch.no_grad():
        for parameter in learning.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(said(learning, images)["segmentation"], before["segmentation"])
    assert torch.equal(engine.outputs(images)["segmentation"], before["segmentation"])
