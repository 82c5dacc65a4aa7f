"""Geometry of a training sample: one drawn ``Transform`` for the image and all its labels.

Every transform here is a window in the source image's pixels, resized to a square and possibly
mirrored. Zooming out is a window larger than the image, a crop one that is smaller, both together
still one window; so only the pixels that end up in the sample are ever touched, and image, boxes
and maps cannot drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# RGB, rounded from the mean that BlitzNet subtracts (BGR 103.06, 115.90, 123.15).
MEAN_COLOUR = (123, 116, 103)


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
class Transform:
    """Resize ``window`` of a ``height`` x ``width`` image to a square, and maybe mirror it."""

    height: int
    width: int
    window: Window
    flip: bool = False

    @classmethod
    def whole(cls, height: int, width: int) -> Transform:
        """Return the transform of evaluation: the whole image, resized to the square."""
        return cls(height, width, Window(0.0, 0.0, float(width), float(height)))

    def image(self, image: UInt8Array, side: int) -> UInt8Array:
        """Transform an (H, W, 3) uint8 RGB image to (side, side, 3), bilinear with antialiasing.

        Output pixels that the image does not cover entirely get the mean colour.
        """
        self._check_size(image)
        x, columns = _axis_part(self.window.x1, self.window.x2, self.width, side)
        y, rows = _axis_part(self.window.y1, self.window.y2, self.height, side)
        out: UInt8Array
        if columns == (0, side) and rows == (0, side):
            out = _resize(image, (x[0], y[0], x[1], y[1]), side, side)
        else:
            out = np.empty((side, side, 3), np.uint8)
            out[:] = MEAN_COLOUR
            if columns[0] < columns[1] and rows[0] < rows[1]:
                part = _resize(
                    image, (x[0], y[0], x[1], y[1]), columns[1] - columns[0], rows[1] - rows[0]
                )
                out[rows[0] : rows[1], columns[0] : columns[1]] = part
        return np.ascontiguousarray(out[:, ::-1]) if self.flip else out

    def map(self, values: npt.NDArray[np.generic], side: int, fill: int) -> npt.NDArray[np.generic]:
        """Transform an (H, W) map of class or palette indices to (side, side), nearest neighbour.

        Output pixels whose centre lies outside the image get ``fill``.
        """
        self._check_size(values)
        columns, outside_x = _nearest(self.window.x1, self.window.x2, self.width, side)
        rows, outside_y = _nearest(self.window.y1, self.window.y2, self.height, side)
        if self.flip:
            columns, outside_x = columns[::-1], outside_x[::-1]
        out = values[rows[:, None], columns]
        out[:, outside_x] = fill
        out[outside_y] = fill
        return out

    def boxes(
        self, boxes: FloatArray, side: int, min_size: float = 0.0
    ) -> tuple[FloatArray, BoolArray]:
        """Transform (n, 4) boxes of the source to the square's relative coordinates, 0..1.

        A box is kept if its centre lies in the window; it is then clipped to the window, and
        dropped after all if a side of it is shorter than ``min_size`` of the output's pixels.

        Returns:
            The kept (m, 4) float32 boxes, and the (n,) bool of which were kept.
        """
        relative = self.relative(boxes)
        centre = (relative[:, :2] + relative[:, 2:]) / 2
        keep = np.all((centre >= 0) & (centre <= 1), axis=1)
        relative = relative.clip(0, 1)
        keep &= np.all((relative[:, 2:] - relative[:, :2]) * side >= min_size, axis=1)
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


def _axis_part(
    start: float, end: float, length: int, side: int
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Return what of the source, and where in the output, one axis of a window covers.

    The output range is rounded *inwards* to whole pixels and mapped back, so the source range
    stays inside the image and source and output correspond exactly, without a shift.
    """
    scale = side / (end - start)
    # The tolerance keeps a window edge that *is* the image's edge from losing a pixel to rounding.
    first = int(np.ceil((max(start, 0.0) - start) * scale - 1e-6))
    last = int(np.floor((min(end, float(length)) - start) * scale + 1e-6))
    source = (max(start + first / scale, 0.0), min(start + last / scale, float(length)))
    return source, (max(first, 0), min(last, side))


def _nearest(
    start: float, end: float, length: int, side: int
) -> tuple[npt.NDArray[np.intp], BoolArray]:
    """Return each output pixel's source index along one axis, and which lie outside the source."""
    centres = start + (np.arange(side) + 0.5) * ((end - start) / side)
    indices = np.floor(centres).astype(np.intp)
    outside = (indices < 0) | (indices >= length)
    return indices.clip(0, length - 1), outside


def _resize(
    image: UInt8Array, box: tuple[float, float, float, float], width: int, height: int
) -> UInt8Array:
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(picture)
