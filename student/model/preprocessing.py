"""From an image's bytes to the numbers that a network reads; each kind of weights has its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from kdcli.student.model.config import ModelConfig

RGB, BGR = (0, 1, 2), (2, 1, 0)


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of RGB images: channels in some order, minus a mean, by a deviation.

    Attributes:
        order: Which of red, green and blue (0, 1, 2) each channel of the network is.
        mean: What is subtracted from each channel of the network, 0..255.
        std: What each is then divided by.
    """

    order: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


PREPROCESSING: Mapping[str, Preprocessing] = MappingProxyType(
    {
        "bgr-255": Preprocessing(BGR, (103.062623801, 115.902882574, 123.151630838)),
        "rgb-unit": Preprocessing(RGB, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        "bgr-caffe": Preprocessing(BGR, (104.0, 117.0, 123.0)),
    }
)
"""By the name that ``model.preprocessing`` has: the public BlitzNet code's; torchvision's mean and
deviation (of inputs in 0..1, here times 255); that of networks converted from Caffe."""


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """RGB images, 0..255 (uint8 or floating), (B, 3, H, W) -> float32, as the network reads them.

    Training, inference and export all call this, with the configuration of their network.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
    wanted = PREPROCESSING[config.input_convention]
    # Numbers, not tensors of them: nothing has to be copied to the device.
    channels = [
        _standardised(images[:, index].float(), mean, std)
        for index, mean, std in zip(wanted.order, wanted.mean, wanted.std, strict=True)
    ]
    return torch.stack(channels, dim=1)


def _standardised(channel: Tensor, mean: float, std: float) -> Tensor:
    centred = channel - mean
    return centred if std == 1 else centred / std
