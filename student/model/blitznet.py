"""BlitzNet: one pass for detection and semantic segmentation (arXiv 1708.02813)."""

import math
from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from kdcli.student.model.anchors import make_anchors
from kdcli.student.model.blocks import DetectionHead, ReverseBlock, SegmentationHead
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.resnet import Trunk, make_block
from kdcli.student.model.torchvision_trunk import torchvision_trunk
from kdcli.student.model.trunks import BLITZNET_RESNET


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


class BlitzNet(nn.Module):
    """Trunk, extra blocks, decoder of reverse blocks, detection and segmentation heads.

    Initialisation: convolutions before a batch norm are normal with variance 2 / fan-in (He);
    detection heads normal with variance 0.1 / fan-in, which keeps the first scores and offsets
    near zero; segmentation head uniform with variance 2 / (fan-in + fan-out) (Glorot); all biases
    zero. The public TensorFlow code has the same variances. A trunk of torchvision's keeps the
    initialisation that it has there.

    The frozen stages have no gradients, and their batch norms are always in evaluation mode.

    Attributes:
        config: what the network is made of.
        anchors: (A, 4) float32 centre x, centre y, width, height, relative to the image;
            a buffer that follows the model to its device and stays out of its state dict.
    """

    anchors: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        own = config.trunk == BLITZNET_RESNET
        self.trunk: nn.Module = Trunk(config) if own else torchvision_trunk(config.trunk)
        widths = config.block_widths
        extra, inputs = [], config.layout.widths[-1]
        for _ in range(config.blocks_behind_trunk):
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
        for name, part in self.named_children():
            if own or name != "trunk":
                part.apply(_initialise_body)
        self.detection.apply(_initialise_detection)
        self.segmentation.apply(_initialise_segmentation)
        for part in self._frozen():
            part.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        """Submodules of the trunk up to the last frozen stage, as they are at the moment."""
        if not self.config.frozen_stages:
            return
        parent, _, last = self.config.layout.stages[self.config.frozen_stages - 1].rpartition(".")
        for name, part in self.trunk.get_submodule(parent).named_children():
            yield part
            if name == last:
                return

    def forward(self, images: Tensor) -> BlitzNetOutput:
        """Images (B, 3, S, S), floating, as `preprocessing.normalise` gives -> output."""
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
