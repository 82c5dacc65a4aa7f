"""ImageNet weights: full, partial, converted and wrong files."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from kdcli.common.errors import StudentError
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import PRESETS
from kdcli.student.model.preprocessing import normalise
from kdcli.student.model.resnet import Trunk, max_pool_same
from kdcli.student.model.weights import load_trunk

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PARTIAL = SHARED / "weights" / "resnet50_imagenet_partial.pth"
# The real trunk under narrow extra blocks and decoder: quick to build.
CONFIG = dataclasses.replace(
    PRESETS["blitznet300"], extra_width=32, feature_width=16, segmentation_width=4
)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """torchvision's network, with statistics as after training on RGB of unit variance."""
    torch.manual_seed(2)
    network = resnet50(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
            module.weight.data.uniform_(0.5, 1.0)
    stem = network.conv1.weight.detach().square().sum(dim=(1, 2, 3))
    network.bn1.running_var.copy_(stem * 1.3)
    return network.eval()


@pytest.fixture
def model() -> BlitzNet:
    torch.manual_seed(1)
    return BlitzNet(CONFIG)


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def test_torchvision_state_dicts_fit_name_by_name(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    report = load_trunk(model, saved(tmp_path / "full.pth", resnet.state_dict()))
    assert report.missing == ()
    assert report.unexpected == ("fc.bias", "fc.weight")
    assert report.convention == "rgb-unit"
    assert len(report.loaded) == 265
    trunk = model.trunk.state_dict()
    for name in report.loaded:
        if name != "conv1.weight":
            assert torch.equal(trunk[name], resnet.state_dict()[name])


@torch.no_grad()
def test_the_trunk_computes_what_torchvision_does(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    """With torchvision's strides moved to the first 1x1, and an odd side before its max pool."""
    load_trunk(model, saved(tmp_path / "full.pth", resnet.state_dict()), "bgr-255")
    reference = resnet50(weights=None)
    reference.load_state_dict(resnet.state_dict())
    for layer in (reference.layer2, reference.layer3, reference.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    x = torch.randn(1, 3, 65, 65)
    y = reference.eval().maxpool(reference.relu(reference.bn1(reference.conv1(x))))
    for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        y = layer(y)
    torch.testing.assert_close(model.eval().trunk(x)[-1], y, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_stem_is_converted_to_bgr_of_0_to_255(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    load_trunk(model, saved(tmp_path / "full.pth", resnet.state_dict()))
    rgb = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    # torchvision's normalisation with BlitzNet's mean, from which its own differs a little.
    mean = torch.tensor([123.151630838, 115.902882574, 103.062623801]).reshape(1, 3, 1, 1) / 255
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    expected = resnet.conv1((rgb.float() / 255 - mean) / std)
    torch.testing.assert_close(
        model.trunk.conv1(normalise(rgb, model.config)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_partial_file_loads_what_it_has(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    state = resnet.state_dict()
    lacking = ("conv1.weight", "layer4.1.conv2.weight", "layer4.0.downsample.0.weight")
    part = {k: v.half() if v.ndim == 4 else v for k, v in state.items() if k not in lacking}
    before = {name: value.clone() for name, value in model.trunk.state_dict().items()}
    report = load_trunk(model, saved(tmp_path / "part.pth", part))
    assert report.missing == tuple(sorted(lacking))
    after = model.trunk.state_dict()
    for name in lacking:
        assert torch.equal(after[name], before[name])
    for norm in ("bn1", "layer4.1.bn2", "layer4.0.downsample.1"):
        assert not after[f"{norm}.running_mean"].any()
        assert (after[f"{norm}.running_var"] == 1).all()
        assert torch.equal(after[f"{norm}.weight"], state[f"{norm}.weight"])
    assert after["layer4.1.bn1.running_mean"].any()
    assert after["layer1.0.conv1.weight"].dtype == torch.float32
    torch.testing.assert_close(
        after["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"], atol=1e-3, rtol=1e-3
    )


@pytest.mark.skipif(not PARTIAL.exists(), reason="real weights not at hand")
def test_the_real_partial_file(model: BlitzNet) -> None:
    report = load_trunk(model, PARTIAL)
    assert report.convention == "bgr-255"
    assert report.unexpected == ()
    assert len(report.missing) == 9
    assert all(name.startswith("layer4.") and "weight" in name for name in report.missing)
    assert "layer4.0.conv1.weight" in report.loaded
    state = model.trunk.state_dict()
    assert state["layer4.0.bn1.running_mean"].any()
    assert not state["layer4.2.bn3.running_mean"].any()


@pytest.mark.skipif(not PARTIAL.exists(), reason="real weights not at hand")
@torch.no_grad()
def test_real_features_are_normalised_on_photographs(model: BlitzNet) -> None:
    """On real photographs the statistics in the file hold; at another scale they do not."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    photographs = sorted((SHARED / "voc2012_subset").rglob("JPEGImages/*.jpg"))[:6]
    if not photographs:
        pytest.skip("photographs not at hand")
    load_trunk(model, PARTIAL)
    images = torch.stack(
        [pil_to_tensor(Image.open(p).convert("RGB").resize((224, 224))) for p in photographs]
    )
    trunk = model.eval().trunk

    def misfit(inputs: Tensor) -> float:
        """Mean squared z-score of bn1's inputs: about 1 where the statistics fit."""
        return float(_z(trunk, inputs).square().mean())

    assert 0.3 < misfit(normalise(images, model.config)) < 3
    assert misfit(normalise(images, model.config) / 255) < 0.3


def _z(trunk: Trunk, inputs: Tensor) -> Tensor:
    norm = trunk.bn1
    assert norm.running_mean is not None
    assert norm.running_var is not None
    y = max_pool_same(trunk.conv1(inputs))
    spread = (norm.running_var + norm.eps).sqrt()
    return (y - norm.running_mean[:, None, None]) / spread[:, None, None]


def test_wrapped_state_dicts_are_unwrapped(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    path = saved(tmp_path / "wrapped.pth", {"epoch": 3, "state_dict": resnet.state_dict()})
    assert load_trunk(model, path).missing == ()


def test_another_network_is_refused(resnet: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "full.pth", resnet.state_dict())
    with pytest.raises(StudentError, match=r"full\.pth: expected .* of shape .*, got \(64, "):
        load_trunk(BlitzNet(PRESETS["tiny"]), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"head.weight": torch.zeros(3)}, "torchvision's ResNet names .* got head.weight"),
        ({}, "an empty state dict"),
        ([torch.zeros(3)], "got a list"),
        (b"not weights at all", "not readable as weights"),
        (b"", "not readable as weights"),
    ],
)
def test_wrong_files_are_named(
    model: BlitzNet, tmp_path: Path, content: object, message: str
) -> None:
    path = tmp_path / "odd.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(StudentError, match=message) as raised:
        load_trunk(model, path)
    assert str(path) in str(raised.value)


def test_a_missing_file_and_a_folder_are_named(model: BlitzNet, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="no such file"):
        load_trunk(model, tmp_path / "absent.pth")
    with pytest.raises(StudentError, match="not readable as weights"):
        load_trunk(model, tmp_path)


def test_numpy_numbers_and_arrays_are_read(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    """A best score beside the weights, and a weight that is an array."""
    weights: dict[str, object] = dict(resnet.state_dict())
    weights["bn1.weight"] = resnet.state_dict()["bn1.weight"].numpy()
    path = saved(tmp_path / "best.pth", {"model": weights, "best": np.float64(41.2)})
    assert load_trunk(model, path).missing == ()
    assert torch.equal(model.trunk.state_dict()["bn1.weight"], resnet.state_dict()["bn1.weight"])


def test_other_classes_are_named_with_the_remedy(
    model: BlitzNet, resnet: nn.Module, tmp_path: Path
) -> None:
    content = {"model": resnet.state_dict(), "args": argparse.Namespace(lr=0.1)}
    with pytest.raises(StudentError, match=r"'argparse\.Namespace'.*save its weights alone"):
        load_trunk(model, saved(tmp_path / "args.pth", content))


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code from a weights file ran",))


def test_no_code_from_a_file_runs(
    model: BlitzNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StudentError, match="not readable as weights"):
        load_trunk(model, saved(tmp_path / "hostile.pth", {"conv1.weight": Hostile()}))
    assert "ran" not in capsys.readouterr().out
