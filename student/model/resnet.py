"""The trunk: ResNet-50 v1 with the stride in the first 1x1 convolution of a block.

Modules carry torchvision's names (conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, ...), so
that published state dicts fit without renaming.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdcli.student.model.config import ModelConfig

BN_EPS = 1e-5
BN_MOMENTUM = 0.1  # the running average keeps 0.9 per step


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias, zero-padded by half its kernel on every side."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation as all of trunk, extra and reverse blocks have it."""
    return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


def max_pool_same(x: Tensor) -> Tensor:
    """3x3 max pool of stride 2 with TensorFlow's SAME padding.

    SAME gives ceil(n / 2) cells. An odd n is padded by one on both sides, an even n at the
    bottom and right only, where PyTorch's usual padding=1 would shift every window by a pixel.
    """
    height, width = x.shape[-2:]
    return F.max_pool2d(x, 3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)


class Bottleneck(nn.Module):
    """Residual unit 1x1 - 3x3 - 1x1 with the stride in the first 1x1.

    The shortcut is a 1x1 convolution where the depth changes, else the input itself, of which
    a stride takes every second pixel.
    """

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = conv(inputs, width, 1, stride), norm(width)
        self.conv2, self.bn2 = conv(width, width, 3), norm(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), norm(outputs)
        self.downsample: nn.Sequential | None = None
        if inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        if self.downsample is not None:
            shortcut = self.downsample(x)
        else:
            shortcut = x if self.stride == 1 else x[..., :: self.stride, :: self.stride]
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + shortcut, inplace=True)


def make_block(inputs: int, width: int, outputs: int, units: int, stride: int) -> nn.Sequential:
    """Bottleneck units in a row, the stride in the first."""
    first = Bottleneck(inputs, width, outputs, stride)
    return nn.Sequential(first, *(Bottleneck(outputs, width, outputs) for _ in range(units - 1)))


class Trunk(nn.Module):
    """7x7/2 stem, max pool and blocks 1 to 4 (torchvision calls them layer1 to layer4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, config.stem_width, 7, stride=2), norm(config.stem_width)
        layers, inputs = [], config.stem_width
        for index, (units, width) in enumerate(
            zip(config.trunk_units, config.trunk_widths, strict=True)
        ):
            layers.append(make_block(inputs, width, 4 * width, units, stride=min(index, 1) + 1))
            inputs = 4 * width
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> outputs of blocks 1 to 4, sides S/4, S/8, S/16, S/32 rounded up."""
        x = max_pool_same(F.relu(self.bn1(self.conv1(images)), inplace=True))
        outputs = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            outputs.append(x)
        return outputs
