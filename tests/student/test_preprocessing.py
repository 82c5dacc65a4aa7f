"""What images become before a network reads them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torchvision.transforms.functional import normalize

from kdcli.common.errors import ConfigError
from kdcli.student.config.toml import run_config
from kdcli.student.model.config import PRESETS, ModelConfig
from kdcli.student.model.preprocessing import PREPROCESSING, normalise


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)


def test_torchvisions_networks_read_what_torchvision_prepares(images: torch.Tensor) -> None:
    expected = normalize(images / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    torch.testing.assert_close(normalise(images, PRESETS["mobile"]), expected)


def test_another_preparation_is_a_setting(images: torch.Tensor) -> None:
    config = dataclasses.replace(PRESETS["mobile"], preprocessing="bgr-caffe")
    means = torch.tensor([104.0, 117.0, 123.0]).reshape(3, 1, 1)
    torch.testing.assert_close(normalise(images, config), images.flip(1).float() - means)


def test_the_trunk_says_which_unless_it_is_set() -> None:
    assert ModelConfig().input_convention == "bgr-255"
    assert PRESETS["mobile"].input_convention == "rgb-unit"
    for name in PREPROCESSING:
        assert run_config("mobile", [f"model.preprocessing={name}"]).model.input_convention == name
    with pytest.raises(ConfigError, match=r"one of auto, .*got 'bgr'"):
        run_config("mobile", ["model.preprocessing=bgr"])


def test_the_means_agree() -> None:
    """As the conversion of weights takes for granted."""
    means = torch.stack(
        [torch.tensor(each.mean)[list(each.order)] for each in PREPROCESSING.values()]
    )
    assert (means.amax(dim=0) - means.amin(dim=0)).max() < 1.2
