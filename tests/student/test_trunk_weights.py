"""Weights of torchvision's networks: whole files, others' files, files for other inputs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.transforms.functional import normalize, pil_to_tensor

from kdcli.common.errors import StudentError
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS
from kdcli.student.model.conventions import guess_convention
from kdcli.student.model.preprocessing import normalise
from kdcli.student.model.weights import load_trunk

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
MOBILENET = SHARED / "weights" / "mobilenet_v2_imagenet.pth"
SQUEEZENET = SHARED / "weights" / "squeezenet1_1_imagenet.pth"


def model(trunk: str = "mobilenet_v2", **changes: Any) -> BlitzNet:
    narrow = {"extra_width": 32, "feature_width": 16, "segmentation_width": 4}
    return BlitzNet(dataclasses.replace(PRESETS["mobile"], trunk=trunk, **narrow | changes))


def network(name: str = "mobilenet_v2") -> nn.Module:
    """torchvision's, with the statistics that a trained stem has: of inputs of variance 1.3."""
    torch.manual_seed(2)
    net = get_model(name, weights=None)
    stem = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    norm = next((module for module in net.modules() if isinstance(module, nn.BatchNorm2d)), None)
    if norm is not None and norm.running_var is not None:
        norm.running_var.copy_(1.3 * stem.weight.detach().square().sum(dim=(1, 2, 3)))
    return net.eval()


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_a_state_dict_of_torchvision_loads_but_for_its_classifier(tmp_path: Path) -> None:
    state = network().state_dict()
    student = model()
    report = load_trunk(student, saved(tmp_path / "mobilenet.pth", state))
    assert report.missing == ()
    assert all(name.startswith(("classifier.", "features.18.")) for name in report.unexpected)
    assert len(report.loaded) == 255
    assert report.convention == "rgb-unit"
    ours = student.trunk.state_dict()
    assert all(torch.equal(ours[name], state[name]) for name in report.loaded)


def test_a_file_without_the_classifier_will_do(tmp_path: Path) -> None:
    state = network().state_dict()
    features = {
        k: v.half() for k, v in state.items() if int(k.split(".")[1]) < 18 and "cl" not in k
    }
    wanted = {k: v for k, v in features.items() if not k.endswith("num_batches_tracked")}
    assert load_trunk(model(), saved(tmp_path / "f.pth", {"model": wanted})).unexpected == ()


@pytest.mark.parametrize(
    ("trunk", "file", "message"),
    [
        ("mobilenet_v2", "resnet18", r"mobilenet_v2 names \(features.0.0.weight, .* got conv1"),
        ("mobilenet_v2", "mobilenet_v3_small", r"\d+ are missing \(features.1.conv.0.*unexpected"),
        ("resnet50", "resnet101", r"resnet50: \d+ are unexpected \(layer3.6.conv1.weight"),
        ("resnet101", "resnet50", r"resnet101: \d+ are missing \(layer3.6.conv1.weight"),
        ("shufflenet_v2_x1_0", "shufflenet_v2_x0_5", r"stage2.0.branch1.2.weight of shape \(58,"),
        ("blitznet-resnet", "mobilenet_v2", r"ResNet names .* got features.0.0.weight"),
    ],
)
def test_another_networks_file_is_named_with_the_remedy(
    trunk: str, file: str, message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "odd.pth", get_model(file, weights=None).state_dict())
    with pytest.raises(StudentError, match=message) as raised:
        load_trunk(model(trunk, frozen_stages=0), path)
    assert str(path) in str(raised.value)
    assert "set model.trunk to the file's network" in str(raised.value)


@pytest.mark.parametrize(
    ("file", "preprocessing"), [("bgr-255", "auto"), ("rgb-unit", "bgr-255"), ("rgb-unit", "auto")]
)
@torch.no_grad()
def test_files_for_other_inputs_are_converted(
    file: str, preprocessing: str, tmp_path: Path
) -> None:
    """The stem computes from the model's inputs what it did from those that it was trained on."""
    state = network().state_dict()
    stem = "features.0.0.weight"
    if file == "bgr-255":  # the same network for inputs of 0..255, with the channels reversed
        std = torch.tensor([58.395, 57.12, 57.375]).reshape(1, 3, 1, 1)
        state[stem] = (state[stem] / std).flip(1)
    student = model(preprocessing=preprocessing)
    report = load_trunk(student, saved(tmp_path / "file.pth", state))
    assert report.convention == file
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    expected = network().features[0][0](  # type: ignore[index, operator]
        normalize(images / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    )
    found = student.trunk.features.get_submodule("0.0")(normalise(images, student.config))
    # The means differ by half a level in 256.
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_stem_without_batch_norm_is_believed_to_fit(tmp_path: Path) -> None:
    state = network("squeezenet1_1").state_dict()
    student = model("squeezenet1_1", preprocessing="bgr-caffe")
    report = load_trunk(student, saved(tmp_path / "squeezenet.pth", state))
    assert report.convention == "bgr-caffe"
    assert torch.equal(student.trunk.state_dict()["features.0.weight"], state["features.0.weight"])


def photograph() -> Tensor:
    """(1, 3, 160, 160) uint8 RGB."""
    found = sorted((SHARED / "voc2012_subset").rglob("JPEGImages/*.jpg"))
    if not found:
        pytest.skip("photographs not at hand")
    return pil_to_tensor(Image.open(found[0]).convert("RGB").resize((160, 160)))[None]


@pytest.mark.skipif(not MOBILENET.exists(), reason="real weights not at hand")
@torch.no_grad()
def test_the_real_mobilenet_sees_what_torchvisions_does() -> None:
    student = model()
    report = load_trunk(student, MOBILENET)
    assert (report.missing, len(report.loaded), report.convention) == ((), 255, "rgb-unit")
    theirs = get_model("mobilenet_v2", weights=None)
    state = torch.load(MOBILENET, weights_only=True)
    theirs.load_state_dict(state)
    assert guess_convention(student.trunk, state, "bgr-255") == "rgb-unit"
    images = photograph()
    x = normalize(images / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = []
    for index, layer in enumerate(theirs.eval().features):
        x = layer(x)
        if index in (3, 6, 13, 17):
            expected.append(x)
    maps = student.eval().trunk(normalise(images, student.config))
    for ours, there in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, there, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not SQUEEZENET.exists(), reason="real weights not at hand")
def test_the_real_squeezenet_loads() -> None:
    report = load_trunk(model("squeezenet1_1", preprocessing="bgr-caffe"), SQUEEZENET)
    assert report.missing == ()
    assert report.unexpected == ("classifier.1.bias", "classifier.1.weight")
