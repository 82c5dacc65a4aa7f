"""BlitzNet: one pass for detection and semantic segmentation (arXiv 1708.02813)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdcli.student.model.anchors import make_anchors
from kdcli.student.model.blocks import DetectionHead, ReverseBlock, SegmentationHead
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.resnet import Trunk, make_block

MEAN_BGR = (103.062623801, 115.902882574, 123.151630838)
"""Mean colour that `normalise` subtracts, 0..255."""


class BlitzNetOutput(NamedTuple):
    """What the network says about a batch: A anchors, C classes, s the segmentation side.

    Attributes:
        offsets: (B, A, 4) box offsets, see `anchors.decode_boxes`.
        logits: (B, A, C) class logits, index 0 the background.
        segmentation: (B, C, s, s) class logits of the cells.
    """

    offsets: Tensor
    logits: Tensor
    segmentation: Tensor


def normalise(images: Tensor) -> Tensor:
    """RGB images, 0..255 (uint8 or floating), (B, 3, H, W) -> float32 BGR minus `MEAN_BGR`."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
    # Numbers, not a tensor of means: nothing has to be copied to the device.
    channels = [images[:, 2 - i].float() - mean for i, mean in enumerate(MEAN_BGR)]
    return torch.stack(channels, dim=1)


class BlitzNet(nn.Module):
    """ResNet trunk, extra blocks, decoder of reverse blocks, detection and segmentation heads.

    Initialisation: convolutions before a batch norm are normal with variance 2 / fan-in (He);
    detection heads normal with variance 0.1 / fan-in, which keeps the first scores and offsets
    near zero; segmentation head uniform with variance 2 / (fan-in + fan-out) (Glorot); all biases
    zero. The public TensorFlow code has the same variances.

    Attributes:
        config: what the network is made of.
        anchors: (A, 4) float32 centre x, centre y, width, height, relative to the image;
            a buffer that follows the model to its device and stays out of its state dict.
    """

    anchors: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        widths = config.block_widths
        extra, inputs = [], widths[3]
        for _ in range(config.extra_blocks):
            width = config.extra_width
            extra.append(make_block(inputs, width // 4, width, config.extra_units, stride=2))
            inputs = width
        self.extra = nn.ModuleList(extra)
        self.reverse = nn.ModuleList()
        for skip in reversed(widths[0 if config.stride4 else 1 : -1]):
            self.reverse.append(ReverseBlock(inputs, skip, config.feature_width))
            inputs = config.feature_width
        maps = len(config.map_sides)
        per_cell, classes = config.anchors_per_cell, config.num_classes
        self.detection = nn.ModuleList(
            [DetectionHead(inputs, per_cell, classes) for _ in range(maps)]
        )
        self.segmentation = SegmentationHead(inputs, config.segmentation_width, maps, classes)
        self.register_buffer("anchors", make_anchors(config), persistent=False)
        self.apply(_initialise_body)
        self.detection.apply(_initialise_detection)
        self.segmentation.apply(_initialise_segmentation)

    def forward(self, images: Tensor) -> BlitzNetOutput:
        """Images (B, 3, S, S), floating BGR minus the mean (see `normalise`) -> output."""
        size = self.config.input_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(
                f"Expected images of shape (B, 3, {size}, {size}), got {tuple(images.shape)}"
            )
        maps = self.features(images)
        detections = [head(x) for head, x in zip(self.detection, maps, strict=True)]
        offsets, logits = zip(*detections, strict=True)
        return BlitzNetOutput(
            offsets=torch.cat(offsets, dim=1),
            logits=torch.cat(logits, dim=1),
            segmentation=self.segmentation(maps),
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps (B, feature_width, s, s) that the heads read, finest first, pool6 last."""
        blocks = self.trunk(images)
        for block in self.extra:
            blocks.append(block(blocks[-1]))
        x = blocks.pop()
        maps: list[Tensor] = []
        for reverse in self.reverse:
            x, shortcut = reverse(x, blocks.pop())
            if not maps:  # pool6 looks at the first shortcut, before the residual is added
                maps.append(shortcut.mean(dim=(2, 3), keepdim=True))
            maps.append(x)
        return [*reversed(maps[1:]), maps[0]]


def _initialise_body(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _initialise_detection(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.normal_(module.weight, std=math.sqrt(0.1 / fan_in))
        _zero_bias(module)


def _initialise_segmentation(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        _zero_bias(module)


def _zero_bias(module: nn.Conv2d) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)
