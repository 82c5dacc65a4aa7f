"""Photometric distortion: drawn per sample on the host, applied to whole batches on the device.

Brightness, contrast, saturation and hue, in one of four orders, then clipped (the BlitzNet
paper's public code; ranges in ``AugmentationConfig``). The distortion sees the finished sample,
so where an image was zoomed out its border changes colour with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcli.student.data.geometry import FloatArray

if TYPE_CHECKING:
    from kdcli.student.config.schema import AugmentationConfig

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDERS = (
    (BRIGHTNESS, SATURATION, HUE, CONTRAST),
    (SATURATION, BRIGHTNESS, CONTRAST, HUE),
    (CONTRAST, HUE, BRIGHTNESS, SATURATION),
    (HUE, SATURATION, CONTRAST, BRIGHTNESS),
)


def draw_color_jitter(rng: np.random.Generator, config: AugmentationConfig) -> FloatArray:
    """Draw one sample's distortion.

    Returns:
        (5,) float32: brightness added (images in 0..1), contrast factor, saturation factor, hue
        added (fraction of the circle), and the index of the order in ``ORDERS``.
    """
    reach = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    drawn = np.array([0.0, 1.0, 1.0, 0.0, 0.0], np.float32)  # neutral
    drawn[:4] += rng.uniform(-1, 1, 4) * reach
    drawn[4] = rng.integers(len(ORDERS))
    return drawn


def distort(images: Tensor, parameters: Tensor) -> Tensor:
    """Apply each sample's own distortion.

    Args:
        images: (B, 3, H, W) RGB, uint8 or float in 0..255, on any device.
        parameters: (B, 5) as ``draw_color_jitter`` gives them, *on the host*: which samples share
            an order must be known without waiting for the device. Compiled, on the images' device.

    Returns:
        (B, 3, H, W) float32 RGB, clipped to 0..255.
    """
    images = images.float() / 255
    distorted = _at_once if torch.compiler.is_compiling() else _order_by_order
    return distorted(images, parameters).clamp_(0, 1) * 255


def _order_by_order(images: Tensor, parameters: Tensor) -> Tensor:
    """Four operations on every sample, by groups whose sizes differ from batch to batch."""
    out = torch.empty_like(images)
    orders = parameters[:, 4].long()
    factors = parameters[:, :4].to(images.device, non_blocking=True)
    for index, order in enumerate(ORDERS):
        members = torch.nonzero(orders == index)[:, 0].to(images.device, non_blocking=True)
        if len(members):
            group, own = images[members], factors[members]
            for operation in order:
                group = _apply(group, own, operation)
            out[members] = group
    return out


def _at_once(images: Tensor, parameters: Tensor) -> Tensor:
    """The same in shapes that never differ: a sample takes, of each place's operations, its own.

    Some 14 operations on every sample, which are nothing to kernels that have the pixel at hand.
    """
    for place in range(4):
        before = images
        for operation in sorted({order[place] for order in ORDERS}):
            orders = [index for index, order in enumerate(ORDERS) if order[place] == operation]
            members = torch.stack([parameters[:, 4] == index for index in orders]).any(dim=0)
            turned = _apply(before, parameters[:, :4], operation)
            images = torch.where(members[:, None, None, None], turned, images)
    return images


def _apply(images: Tensor, factors: Tensor, operation: int) -> Tensor:
    factor = factors[:, operation, None, None, None]
    if operation == BRIGHTNESS:
        return images + factor
    if operation == CONTRAST:
        # About each channel's own mean over the picture.
        mean = images.mean(dim=(2, 3), keepdim=True)
        return mean + (images - mean) * factor
    if operation == SATURATION:
        return saturate(images, factor)
    return turn_hue(images, factor)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the HSV saturation, at most to 1; value and hue stay.

    Scaling the saturation of a colour c with value v = max(c) by f is v - (v - c) f, so no
    conversion to HSV is needed. Saturation 1 is where the smallest channel meets 0.
    """
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    largest = value.clamp(min=0) / chroma.clamp(min=1e-6)
    # A colour that an earlier step drove below 0 has a saturation above 1: leave that one be.
    factor = torch.minimum(factor.expand_as(largest), largest.clamp(min=1))
    return value - (value - images) * factor


def turn_hue(images: Tensor, angle: Tensor) -> Tensor:
    """Add ``angle`` (fraction of the circle) to the HSV hue; value and saturation stay."""
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    red, green, blue = (images[:, channel, None] for channel in range(3))
    safe = chroma.clamp(min=1e-6)
    sextant = torch.where(
        red == value,
        (green - blue) / safe,
        torch.where(green == value, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sextant = sextant + 6 * angle
    # Of HSV -> RGB: each channel is value - chroma * clamp(min(k, 4 - k), 0, 1), k by hue.
    turned = [torch.remainder(sextant + start, 6) for start in (5, 3, 1)]
    fall = torch.cat([torch.minimum(k, 4 - k).clamp(0, 1) for k in turned], dim=1)
    return value - chroma * fall
