"""What BlitzNet adds to its trunk: TensorFlow-style resizing, reverse blocks, heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdcli.student.model.resnet import conv, norm


def resize_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize (B, C, h, w) -> (B, C, height, width) as TensorFlow 1 does by default.

    Output pixel i reads the input at i * h / height (no half-pixel centres, corners not
    aligned); beyond the last pixel the last one is repeated. PyTorch has no such mode, but with
    its last row and column repeated once, aligned corners from h + 1 to height + 1 pixels have
    exactly this step: (h + 1 - 1) / (height + 1 - 1). The surplus row and column are cut off.
    """
    if x.shape[-2:] == (height, width):
        return x
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _resize_by_products(x, height, width)
    # Not F.pad: its gradient comes in a memory layout that torch.compile does not expect.
    padded = torch.cat([x, x[..., -1:, :]], dim=-2)
    padded = torch.cat([padded, padded[..., -1:]], dim=-1)
    size = (height + 1, width + 1)
    resized = F.interpolate(padded, size, mode="bilinear", align_corners=True)
    return resized[..., :height, :width]


def _resize_by_products(x: Tensor, height: int, width: int) -> Tensor:
    """The same as two products with matrices of weights, in x's type; channels last in memory.

    The gradient is two products, too. That of an interpolation is a sum at places that meet, which
    GPUs do atom by atom, compilers in bfloat16 not at all.
    """
    batch, channels, rows, columns = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(batch, rows, columns * channels)
    pixels = torch.matmul(_weights(rows, height, x), pixels)
    pixels = pixels.reshape(batch * height, columns, channels)
    pixels = torch.matmul(_weights(columns, width, x), pixels)
    return pixels.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


def _weights(inputs: int, outputs: int, like: Tensor) -> Tensor:
    """(outputs, inputs): how much of each input an output is, by their distance, 0 from 1 on."""
    places = torch.arange(outputs, device=like.device) * (inputs / outputs)
    distances = places.clamp(max=inputs - 1)[:, None] - torch.arange(inputs, device=like.device)
    return (1 - distances.abs()).clamp(min=0).to(like.dtype)


def resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest resize (B, C, h, w) -> (B, C, height, width) as TensorFlow 1 does by default.

    Output pixel i is the input's pixel floor(i * h / height), PyTorch's plain "nearest".
    """
    return F.interpolate(x, (height, width), mode="nearest")


class ReverseBlock(nn.Module):
    """One step of the decoder: the coarser map, resized, meets the skip of the finer one.

    `shortcut` is a 1x1 convolution where the coarser map has another depth, else the identity.
    """

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1), norm(outputs))
        self.conv1, self.bn1 = conv(inputs + skip, inner, 1), norm(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3), norm(inner)
        self.conv3, self.bn3 = conv(inner, outputs, 1), norm(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, h, w) and (B, skip, H, W) -> output and shortcut, (B, outputs, H, W)."""
        resized = resize_bilinear(x, skip.shape[-2], skip.shape[-1])
        shortcut = self.shortcut(resized)
        residual = torch.cat([resized, skip], dim=1)
        residual = F.relu(self.bn1(self.conv1(residual)), inplace=True)
        residual = F.relu(self.bn2(self.conv2(residual)), inplace=True)
        residual = self.bn3(self.conv3(residual))
        return F.relu(residual + shortcut, inplace=True), shortcut


class AnchorHead(nn.Module):
    """3x3 convolutions of one map to the offsets and class scores of its anchors."""

    def __init__(self, inputs: int, anchors_per_cell: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.offsets = nn.Conv2d(inputs, anchors_per_cell * 4, 3, padding=1)
        self.scores = nn.Conv2d(inputs, anchors_per_cell * num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) -> (B, H * W * anchors, 4) and (B, H * W * anchors, classes)."""
        offsets, scores = _convolve(self.offsets, x), _convolve(self.scores, x)
        return _by_anchor(offsets, 4), _by_anchor(scores, self.num_classes)


def _convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 3x3 convolution; compiled, that of a single pixel by its centre alone.

    A map of one pixel has no memory layout of its own: cuDNN takes another one for the gradient of
    the weights than torch.compile expects, which stops the run (seen with PyTorch 2.11).
    """
    if torch.compiler.is_compiling() and x.shape[-2:] == (1, 1):
        pixels = F.linear(x.flatten(1), convolution.weight[:, :, 1, 1], convolution.bias)
        return pixels[..., None, None]
    return convolution(x)  # type: ignore[no-any-return]


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """(B, anchors * values, H, W) -> (B, H * W * anchors, values), in the anchors' order."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)


class PixelHead(nn.Module):
    """All maps, each through a 1x1 convolution and to one size, then a 3x3 to class logits."""

    def __init__(self, inputs: int, width: int, maps: int, num_classes: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList([nn.Conv2d(inputs, width, 1) for _ in range(maps)])
        self.logits = nn.Conv2d(maps * width, num_classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, inputs, s, s), finest first -> (B, classes, S, S), S the finest's side."""
        height, width = maps[0].shape[-2:]
        reduced = [
            resize_nearest(F.relu(reduce(x), inplace=True), height, width)
            for reduce, x in zip(self.reduce, maps, strict=True)
        ]
        logits: Tensor = self.logits(torch.cat(reduced, dim=1))
        return logits
