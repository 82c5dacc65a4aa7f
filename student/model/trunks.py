"""Which trunks there are: the reference's ResNet, and torchvision's networks by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

BLITZNET_RESNET = "blitznet-resnet"
"""The reference's trunk, ``model.resnet``, as wide and as deep as the configuration says."""

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Layout:
    """Where a trunk has its maps.

    Attributes:
        stages: Submodules whose outputs are the maps at strides 4, 8, 16 and 32: the last ones of
            that stride, without the 1x1 convolution that widens the last map for a classifier.
        widths: Their channels.
    """

    stages: tuple[str, ...]
    widths: tuple[int, ...]


def _features(indices: tuple[int, ...], *widths: int) -> Layout:
    return Layout(tuple(f"features.{index}" for index in indices), widths)


def _resnet(*widths: int) -> Layout:
    return Layout(RESNET_STAGES, widths)


def _shufflenet(*widths: int) -> Layout:
    return Layout(("maxpool", "stage2", "stage3", "stage4"), (24, *widths))


TORCHVISION: Mapping[str, Layout] = MappingProxyType(
    {
        "mobilenet_v2": _features((3, 6, 13, 17), 24, 32, 96, 320),
        "mobilenet_v3_small": _features((1, 3, 8, 11), 16, 24, 48, 96),
        "mobilenet_v3_large": _features((3, 6, 12, 15), 24, 40, 112, 160),
        "shufflenet_v2_x0_5": _shufflenet(48, 96, 192),
        "shufflenet_v2_x1_0": _shufflenet(116, 232, 464),
        "shufflenet_v2_x1_5": _shufflenet(176, 352, 704),
        "shufflenet_v2_x2_0": _shufflenet(244, 488, 976),
        "squeezenet1_1": _features((4, 7, 12), 128, 256, 512),  # it ends at stride 16
        "resnet18": _resnet(64, 128, 256, 512),
        "resnet34": _resnet(64, 128, 256, 512),
        "resnet50": _resnet(256, 512, 1024, 2048),
        "resnet101": _resnet(256, 512, 1024, 2048),
        "convnext_tiny": _features((1, 3, 5, 7), 96, 192, 384, 768),
        "efficientnet_b0": _features((2, 3, 5, 7), 24, 40, 112, 320),
    }
)
TRUNKS = (BLITZNET_RESNET, *TORCHVISION)
