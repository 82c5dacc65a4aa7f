"""Geometry of a training sample: one drawn ``Transform`` for the image and all its labels.

Every transform here is a window in the source image's pixels, resized to a square and possibly
mirrored. Zooming out is a window larger than the image, a crop one that is smaller, both together
still one window; so only the pixels that end up in the sample are ever touched, and image, boxes
and maps cannot drift apart.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from kdcli.voc.jpeg import REDUCTIONS

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# RGB, rounded from the mean that BlitzNet subtracts (BGR 103.06, 115.90, 123.15).
MEAN_COLOUR = (123, 116, 103)

DETAIL = 1.5
"""Source pixels that a reduced image must still have for one of the output, along each axis.

With less the decoder's box filter would show; with 1.5 the mean difference is one level in 256.
"""


@dataclass(frozen=True)
class Window:
    """A rectangle in continuous pixels of the source image; it may reach outside the image."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """Width in source pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """Height in source pixels."""
        return self.y2 - self.y1


@dataclass(frozen=True)
class Axis:
    """One axis of a transform: whole source pixels shown at whole output pixels.

    Attributes:
        first: First source pixel that is shown.
        last: Behind the last one; equal to ``first`` where nothing is shown.
        low: First output pixel that shows it; the ones before are padding.
        high: Behind the last one.
        start: Source coordinate of the output's edge.
        end: Source coordinate of the output's other edge.
    """

    first: int
    last: int
    low: int
    high: int
    start: float
    end: float


@dataclass(frozen=True)
class Transform:
    """Resize a window of a ``height`` x ``width`` image to a square, and maybe mirror it.

    Attributes:
        height: Of the source image.
        width: Of the source image.
        side: Of the output image.
        x: Columns of source and output.
        y: Rows of source and output.
        flip: Whether left and right are swapped in the end.
        reduction: The image may be decoded at 1 / ``reduction`` of its size: that still has a
            pixel for every output pixel.
    """

    height: int
    width: int
    side: int
    x: Axis
    y: Axis
    flip: bool
    reduction: int

    @classmethod
    def fit(
        cls,
        height: int,
        width: int,
        window: Window,
        side: int,
        flip: bool = False,
        reductions: Sequence[int] = REDUCTIONS,
    ) -> Transform:
        """Return the transform nearest to ``window`` that maps whole pixels onto whole pixels.

        A border inside the image moves by up to half a pixel of the (reduced) source, and the
        image's own border by up to half an output pixel (and where the size is no multiple of
        ``reduction``, less than one is cut off). The image, boxes and maps all follow the moved
        window, so they stay aligned exactly.
        """
        ratio = min(window.width, window.height) / side
        reduction = max(r for r in reductions if r == 1 or r * DETAIL <= ratio)
        x = _fit_axis(window.x1, window.x2, width, side, reduction)
        y = _fit_axis(window.y1, window.y2, height, side, reduction)
        return cls(height, width, side, x, y, flip, reduction)

    @classmethod
    def whole(cls, height: int, width: int, side: int) -> Transform:
        """Return the transform of evaluation: the whole image, resized to the square."""
        window = Window(0.0, 0.0, float(width), float(height))
        # Predictions are mapped back to the whole image, so not a pixel may be cut off.
        exact = [r for r in REDUCTIONS if height % r == width % r == 0]
        return cls.fit(height, width, window, side, reductions=exact)

    @property
    def window(self) -> Window:
        """What the square shows, in continuous source pixels."""
        return Window(self.x.start, self.y.start, self.x.end, self.y.end)

    @property
    def visible(self) -> bool:
        """Whether the square shows anything of the image at all."""
        return self.x.first < self.x.last and self.y.first < self.y.last

    def image(self, image: UInt8Array) -> UInt8Array:
        """Transform an image to (side, side, 3) uint8 RGB, bilinear with antialiasing.

        Output pixels that the image does not cover get the mean colour.

        Args:
            image: (H, W, 3) uint8 RGB, whole or reduced by ``reduction`` (sizes rounded up).
        """
        step = self.reduction
        if image.shape[:2] == (self.height, self.width):
            step = 1
        elif image.shape[:2] != (-(-self.height // step), -(-self.width // step)):
            self._check_size(image)
        x, y, side = self.x, self.y, self.side
        if not self.visible:
            return _canvas(side).clone().numpy()
        part = image[y.first // step : y.last // step, x.first // step : x.last // step]
        out = _resize(part, x.high - x.low, y.high - y.low)
        if self.flip:
            out = out.flip(1)
        if out.shape[:2] != (side, side):
            low = side - x.high if self.flip else x.low
            canvas = _canvas(side).clone()
            canvas[y.low : y.high, low : low + out.shape[1]] = out
            out = canvas
        array: UInt8Array = out.numpy()
        return array

    def map(self, values: npt.NDArray[np.generic], side: int, fill: int) -> npt.NDArray[np.generic]:
        """Transform an (H, W) map of class or palette indices to (side, side), nearest neighbour.

        Output pixels whose centre lies outside of what the image shows get ``fill``; the type of
        ``values`` is widened where it cannot hold that.
        """
        self._check_size(values)
        columns, outside_x = _nearest(self.x, side)
        rows, outside_y = _nearest(self.y, side)
        dtype = np.promote_types(values.dtype, np.min_scalar_type(fill))
        if not self.visible:
            return np.full((side, side), fill, dtype)
        if self.flip:
            columns, outside_x = columns[::-1], outside_x[::-1]
        out = values.take(rows, axis=0).take(columns, axis=1).astype(dtype, copy=False)
        out[:, outside_x] = fill
        out[outside_y] = fill
        return out

    def boxes(self, boxes: FloatArray, min_size: float = 0.0) -> tuple[FloatArray, BoolArray]:
        """Transform (n, 4) boxes of the source to the square's relative coordinates, 0..1.

        A box is kept if its centre lies in the window; it is then clipped to the window, and
        dropped after all if a side of it is shorter than ``min_size`` pixels of the output.

        Returns:
            The kept (m, 4) float32 boxes, and the (n,) bool of which were kept.
        """
        relative = self.relative(boxes)
        sums = relative[:, :2] + relative[:, 2:]  # twice the centre
        relative = np.minimum(np.maximum(relative, 0), 1)
        sides = relative[:, 2:] - relative[:, :2]
        fits = (sums >= 0) & (sums <= 2) & (sides >= min_size / self.side)
        keep = fits[:, 0] & fits[:, 1] & self.visible
        return relative[keep].astype(np.float32), keep

    def relative(self, boxes: FloatArray) -> npt.NDArray[np.float64]:
        """Transform (n, 4) boxes of the source to coordinates in which the square is 0..1.

        All boxes are returned, as they are: they may reach outside the square or lie there.
        """
        window = self.window
        origin = np.array([window.x1, window.y1] * 2)
        size = np.array([window.width, window.height] * 2)
        relative: npt.NDArray[np.float64] = (
            boxes.astype(np.float64).reshape(-1, 4) - origin
        ) / size
        if self.flip:
            relative[:, [0, 2]] = 1 - relative[:, [2, 0]]
        return relative

    def _check_size(self, array: npt.NDArray[np.generic]) -> None:
        if array.shape[:2] != (self.height, self.width):
            raise ValueError(
                f"Expected an array of {self.height} x {self.width} pixels (height x width), "
                f"got {array.shape[0]} x {array.shape[1]}"
            )


def _fit_axis(start: float, end: float, length: int, side: int, step: int) -> Axis:
    """Move ``start`` and ``end`` so that whole steps of the source fall on whole output pixels."""
    scale = side / (end - start)
    most = length // step
    first = round(max(start, 0.0) / step) * step
    last = min(round(min(end, float(length)) / step), most) * step
    low = round(-start * scale) if start < 0 else 0
    high = round((last - start) * scale) if end > length else side
    if first >= last or low >= high:
        return Axis(0, 0, 0, 0, start, end)
    moved = (high - low) / (last - first)
    return Axis(first, last, low, high, first - low / moved, last + (side - high) / moved)


@functools.lru_cache(maxsize=4)  # a sample's two maps share their axes
def _nearest(axis: Axis, side: int) -> tuple[npt.NDArray[np.intp], BoolArray]:
    """Return each output pixel's source index along one axis, and which lie outside the source."""
    centres = axis.start + (np.arange(side) + 0.5) * ((axis.end - axis.start) / side)
    indices = np.floor(centres).astype(np.intp)
    outside = (indices < axis.first) | (indices >= axis.last)
    return indices.clip(axis.first, max(axis.last - 1, axis.first)), outside


@functools.cache
def _canvas(side: int) -> Tensor:
    """Return padding to copy from: filling with three bytes takes 20 times as long."""
    return torch.tensor(MEAN_COLOUR, dtype=torch.uint8).expand(side, side, 3).contiguous()


def _resize(image: UInt8Array, width: int, height: int) -> Tensor:
    """Return the (height, width, 3) image, bilinear with antialiasing.

    torch's fixed-point kernel gives Pillow's result to one level and takes a fourth of its time.
    """
    writable = image if image.flags.writeable else image.copy()  # or torch warns
    # The batch's axis comes first, so that torch sees its "channels last" and keeps to it.
    channels_first = torch.from_numpy(writable)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, (height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0)
