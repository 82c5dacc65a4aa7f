"""Pooling, resizing, bottlenecks, reverse blocks and heads against their definitions in loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcli.student.model import blocks
from kdcli.student.model.blocks import (
    AnchorHead,
    PixelHead,
    ReverseBlock,
    resize_bilinear,
    resize_nearest,
)
from kdcli.student.model.resnet import Bottleneck, make_block, max_pool_same

# Resizes that the variants need, coarse to fine.
RESIZES = [(2, 3), (3, 5), (5, 10), (10, 19), (19, 38), (38, 75), (1, 2), (2, 4), (64, 128)]
sides = st.integers(1, 13)


def image(height: int, width: int, seed: int = 0, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, height, width, generator=generator)


def slow_max_pool(plane: np.ndarray) -> np.ndarray:
    """TensorFlow's SAME: as much padding as needed, the smaller half of it before."""
    height, width = plane.shape
    out = np.empty(((height + 1) // 2, (width + 1) // 2))
    before = [max((o - 1) * 2 + 3 - n, 0) // 2 for o, n in zip(out.shape, plane.shape, strict=True)]
    for y, x in np.ndindex(*out.shape):
        top, left = 2 * y - before[0], 2 * x - before[1]
        out[y, x] = plane[max(top, 0) : top + 3, max(left, 0) : left + 3].max()
    return out


def slow_bilinear(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    h, w = plane.shape
    out = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        source_y, source_x = y * h / height, x * w / width
        top, left = int(source_y), int(source_x)
        bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
        dy, dx = source_y - top, source_x - left
        upper = plane[top, left] * (1 - dx) + plane[top, right] * dx
        lower = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
        out[y, x] = upper * (1 - dy) + lower * dy
    return out


def slow_nearest(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    h, w = plane.shape
    out = np.empty((height, width))
    for y, x in np.ndindex(height, width):
        out[y, x] = plane[y * h // height, x * w // width]
    return out


@given(height=sides, width=sides)
def test_max_pool_pads_as_tensorflow_same(height: int, width: int) -> None:
    x = image(height, width) - 5  # all negative: zero padding would show
    pooled = max_pool_same(x)
    for b, c in np.ndindex(2, 2):
        np.testing.assert_array_equal(pooled[b, c], slow_max_pool(x[b, c].numpy()))


def test_max_pool_of_an_even_side_by_hand() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert max_pool_same(x).tolist() == [[[[10, 11], [14, 15]]]]  # windows begin at 0 and 2
    assert max_pool_same(x[..., :3, :3]).tolist() == [[[[5, 6], [9, 10]]]]  # at -1 and 1


@settings(deadline=None)
@given(height=sides, width=sides, new_height=sides, new_width=sides)
def test_bilinear_resize_is_tensorflow_ones(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    x = image(height, width)
    resized = resize_bilinear(x, new_height, new_width)
    for b, c in np.ndindex(2, 2):
        expected = slow_bilinear(x[b, c].numpy(), new_height, new_width)
        np.testing.assert_allclose(resized[b, c], expected, atol=1e-5)


@pytest.mark.parametrize(("side", "new"), RESIZES)
def test_resizes_of_the_variants(side: int, new: int) -> None:
    x = image(side, side)
    plane = x[1, 1].numpy()
    expected = slow_bilinear(plane, new, new)
    np.testing.assert_allclose(resize_bilinear(x, new, new)[1, 1], expected, atol=1e-4)


@pytest.mark.parametrize("finest", [75, 38, 128, 64, 32])
def test_nearest_resizes_of_the_variants(finest: int) -> None:
    for side in (1, 2, 3, 4, 5, 8, 10, 16, 19, 32, 38, 64):
        x = image(side, side, channels=1)
        resized = resize_nearest(x, finest, finest)[0, 0]
        np.testing.assert_array_equal(resized, slow_nearest(x[0, 0].numpy(), finest, finest))


def test_bilinear_resize_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0]]]])
    # Pixels 0, .5, 1, 1.5 of the input: no half-pixel centres, the last pixel repeated.
    assert resize_bilinear(x, 1, 4).tolist() == [[[[0, 0.5, 1, 1]]]]


def test_bilinear_resize_keeps_layout_type_and_gradients() -> None:
    x = image(5, 5).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    resized = resize_bilinear(x, 10, 10)
    assert resized.dtype == torch.bfloat16
    resized.float().sum().backward()
    assert x.grad is not None
    # Along one axis an inner pixel has weight 1/2 + 1 + 1/2 in the outputs, the last 1/2 + 1 + 1.
    assert x.grad[0, 0, 1, 1] == 2 * 2
    assert x.grad[0, 0, 4, 4] == 2.5 * 2.5


def settle(module: nn.Module, seed: int = 0) -> nn.Module:
    """Evaluation mode with statistics and affine parts that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for table in (part.weight, part.bias, part.running_mean, part.running_var):
                assert table is not None
                table.data = torch.rand(table.shape, generator=generator) + 0.5
    return module.eval()


def normed(x: torch.Tensor, conv: nn.Module, norm: nn.Module) -> torch.Tensor:
    """A convolution of stride 1 as a sum over its window, and the batch norm's formula."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert conv.bias is None
    size = conv.kernel_size[0]
    half = size // 2
    height, width = x.shape[-2:]
    padded = torch.zeros(*x.shape[:2], height + 2 * half, width + 2 * half)
    padded[..., half : half + height, half : half + width] = x
    y = torch.zeros(x.shape[0], conv.out_channels, height, width)
    for i, j in np.ndindex(size, size):
        window = padded[..., i : i + height, j : j + width]
        y += torch.einsum("bchw,oc->bohw", window, conv.weight[:, :, i, j])
    tables = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, variance, scale, shift = (t[:, None, None] for t in tables if t is not None)
    return (y - mean) / (variance + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("outputs", [12, 6])
@torch.no_grad()
def test_bottleneck_strides_in_its_first_1x1(side: int, outputs: int) -> None:
    unit = settle(Bottleneck(6, 3, outputs, stride=2))
    assert isinstance(unit, Bottleneck)
    x = image(side, side, channels=6)
    seen = x[..., ::2, ::2]  # what a 1x1 of stride 2 sees, for even and odd sides
    residual = normed(seen, unit.conv1, unit.bn1).relu()
    residual = normed(residual, unit.conv2, unit.bn2).relu()
    residual = normed(residual, unit.conv3, unit.bn3)
    shortcut = seen
    if outputs != 6:
        assert unit.downsample is not None
        shortcut = normed(seen, *unit.downsample)
    else:
        assert unit.downsample is None
    torch.testing.assert_close(unit(x), (residual + shortcut).relu(), atol=1e-5, rtol=1e-5)
    assert unit(x).shape[-1] == (side + 1) // 2


def test_blocks_stride_in_their_first_unit() -> None:
    first, second = make_block(8, 2, 8, units=2, stride=2)
    assert (first.stride, second.stride) == (2, 1)
    assert first.downsample is None  # the depth does not change: the input itself, subsampled


@pytest.mark.parametrize("inputs", [16, 8])
@torch.no_grad()
def test_reverse_block_follows_the_definition(inputs: int) -> None:
    block = settle(ReverseBlock(inputs, skip=5, outputs=8))
    assert isinstance(block, ReverseBlock)
    x, skip = image(3, 3, channels=inputs), image(5, 5, seed=1, channels=5)
    resized = torch.tensor(
        np.stack([[slow_bilinear(plane, 5, 5) for plane in planes] for planes in x.numpy()])
    ).float()
    shortcut = resized
    if inputs != 8:
        assert isinstance(block.shortcut, nn.Sequential)
        shortcut = normed(resized, *block.shortcut)  # batch norm, no ReLU
        assert shortcut.min() < 0
    residual = normed(torch.cat([resized, skip], dim=1), block.conv1, block.bn1).relu()
    assert residual.shape[1] == 2
    residual = normed(residual, block.conv2, block.bn2).relu()
    residual = normed(residual, block.conv3, block.bn3)
    output, returned = block(x, skip)
    torch.testing.assert_close(returned, shortcut, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output, (residual + shortcut).relu(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_detection_head_orders_values_as_the_anchors() -> None:
    head = AnchorHead(4, anchors_per_cell=6, num_classes=21)
    x = image(3, 2, channels=4)
    offsets, scores = head(x)
    assert offsets.shape == (2, 36, 4)
    assert scores.shape == (2, 36, 21)
    row, column, anchor = 2, 1, 5
    index = (row * 2 + column) * 6 + anchor
    raw = head.offsets(x)[1, :, row, column]
    torch.testing.assert_close(offsets[1, index], raw[anchor * 4 : anchor * 4 + 4])
    raw = head.scores(x)[1, :, row, column]
    torch.testing.assert_close(scores[1, index], raw[anchor * 21 : anchor * 21 + 21])


@torch.no_grad()
def test_segmentation_head_follows_the_definition() -> None:
    head = PixelHead(4, width=3, maps=2, num_classes=5)
    fine, coarse = image(5, 5, channels=4), image(3, 3, seed=1, channels=4)
    parts = []
    for reduce, x in zip(head.reduce, (fine, coarse), strict=True):
        assert isinstance(reduce, nn.Conv2d)
        assert reduce.bias is not None
        y = torch.einsum("bchw,oc->bohw", x, reduce.weight[:, :, 0, 0])
        y = (y + reduce.bias[:, None, None]).relu()
        resized = [[slow_nearest(plane, 5, 5) for plane in planes] for planes in y.numpy()]
        parts.append(torch.tensor(np.array(resized)).float())
    expected = nn.functional.conv2d(
        torch.cat(parts, dim=1), head.logits.weight, head.logits.bias, padding=1
    )
    torch.testing.assert_close(head([fine, coarse]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((3, 5), (5, 9)), ((1, 2), (4, 2)), ((10, 19), (19, 38))])
def test_resizing_by_products_is_the_same(old: tuple[int, int], new: tuple[int, int]) -> None:
    """As it is compiled, and so its gradient."""
    x = torch.randn(2, 3, *old, requires_grad=True)
    ways = resize_bilinear(x, *new), blocks._resize_by_products(x, *new)
    torch.testing.assert_close(ways[1], ways[0], atol=1e-5, rtol=1e-5)
    seed = torch.randn(2, 3, *new)
    plain, products = (torch.autograd.grad(each, x, seed)[0] for each in ways)
    torch.testing.assert_close(products, plain, atol=1e-5, rtol=1e-5)
    half = blocks._resize_by_products(x.detach().bfloat16(), *new)
    assert (half.float() - ways[0]).abs().max() < 2**-6 * ways[0].abs().max()


def test_a_single_pixels_convolution_is_its_centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, the heads take it so; see ``_convolve``."""
    head = AnchorHead(8, 6, 21)
    pixel, two = torch.randn(3, 8, 1, 1), torch.randn(3, 8, 1, 2)
    plain = [head(x) for x in (pixel, two)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for x, expected in zip((pixel, two), plain, strict=True):
        torch.testing.assert_close(head(x), expected, atol=1e-5, rtol=1e-5)
