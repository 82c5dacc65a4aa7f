"""Photographs brought to exactly the size that an export wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kdcli.tutor_gen.tutors.preparation import Preparation, Prepared


class Window(NamedTuple):
    """Where an image lies in the tensor that a network gets, in pixels."""

    top: int
    left: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Fitted(Preparation):
    """An image as a part of a canvas of fixed size, or stretched over all of it; bilinear.

    Attributes:
        size: height and width of the canvas.
        keeps_shape: whether the image is scaled evenly, as large as fits (a "letterbox").
        centred: whether it then lies in the middle, or else in the upper left corner.
        fill: what all channels of the rest are, 0..255.
    """

    size: tuple[int, int] = (0, 0)
    keeps_shape: bool = False
    centred: bool = True
    fill: int = 114

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the canvas."""
        return self.size

    def window(self, height: int, width: int) -> Window:
        """Return where an image of this size comes to lie."""
        if not self.keeps_shape:
            return Window(0, 0, *self.size)
        scale = min(self.size[0] / height, self.size[1] / width)
        rows, columns = round(height * scale), round(width * scale)
        if not self.centred:
            return Window(0, 0, rows, columns)
        return Window((self.size[0] - rows) // 2, (self.size[1] - columns) // 2, rows, columns)

    def __call__(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare a (H, W, 3) uint8 RGB image; TutorError as `Preparation`."""
        height, width = image.shape[:2]
        at = self.window(height, width)
        self.refuse_nothing((height, width), (at.rows, at.columns))
        ordered = np.ascontiguousarray(image[..., ::-1]) if self.bgr else image
        resized = Image.fromarray(ordered).resize((at.columns, at.rows), Image.Resampling.BILINEAR)
        canvas = np.full((*self.size, 3), self.fill, dtype=np.uint8)
        canvas[at.top : at.top + at.rows, at.left : at.left + at.columns] = np.asarray(resized)
        return Prepared(torch.from_numpy(canvas), height, width)


def window_of(way: Preparation, height: int, width: int) -> Window:
    """Return where an image of this size lies in what a preparation makes of it."""
    if isinstance(way, Fitted):
        return way.window(height, width)
    return Window(0, 0, *way.shape(height, width))
