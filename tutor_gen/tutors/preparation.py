"""What happens to a photograph before a network sees it: its resize and the order of its channels.

Kept apart from the tutors, so that worker processes do it ahead of them, without a network or a
GPU of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kdcli.common.errors import TutorError


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as a network takes it.

    Attributes:
        pixels: (h, w, 3) uint8, resized, channels in the network's order.
        height: of the original image, in pixels.
        width: of the original image, in pixels.
    """

    pixels: torch.Tensor
    height: int
    width: int

    def pin_memory(self) -> Prepared:
        """Return it in page-locked memory, from which a GPU copies while it computes."""
        return Prepared(self.pixels.pin_memory(), self.height, self.width)


@dataclass(frozen=True)
class Preparation:
    """How a tutor wants its images; equal values prepare equally.

    The resize is that of Detectron2's ``ResizeShortestEdge``: the shorter side becomes
    ``short_side`` unless the longer one would exceed ``long_side``, which then decides; bilinear,
    by Pillow.

    Attributes:
        short_side: in pixels; 0 leaves the image as it is.
        long_side: in pixels; 0 for no limit.
        bgr: whether the channels are blue, green, red.
        multiple: the network itself pads the sides to a multiple of it.
    """

    short_side: int = 0
    long_side: int = 0
    bgr: bool = False
    multiple: int = 1

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return what (height, width) become, without looking at the image."""
        if not self.short_side or not (height and width):
            return height, width
        scale = self.short_side / min(height, width)
        # Step by step as Detectron2 does it: one pixel depends on the rounding.
        new_height = float(self.short_side) if height < width else scale * height
        new_width = scale * width if height < width else float(self.short_side)
        longest = max(new_height, new_width)
        if self.long_side and longest > self.long_side:
            shrink = self.long_side / longest
            new_height, new_width = new_height * shrink, new_width * shrink
        return int(new_height + 0.5), int(new_width + 0.5)

    def padded_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that the network computes on for an image of this size.

        Only images that agree in it go into one batch. Otherwise the network pads the smaller ones
        further than it does alone, and says something else: of 24 drawn scenes in batches of 8
        regardless of shape, 23 got other boxes.
        """
        rows, columns = self.shape(height, width)
        step = self.multiple
        return -(-rows // step) * step, -(-columns // step) * step

    def refuse_nothing(self, size: tuple[int, int], becomes: tuple[int, int]) -> None:
        """Raise TutorError if nothing is left of an image, both as height and width."""
        if not all(becomes):
            height, width = size
            raise TutorError(
                f"{width} x {height} pixels become {becomes[1]} x {becomes[0]} for the tutor: too "
                "narrow"
            )

    def __call__(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare a (H, W, 3) uint8 RGB image.

        Raises:
            TutorError: the image is so narrow that nothing would be left of it.
        """
        height, width = image.shape[:2]
        rows, columns = self.shape(height, width)
        self.refuse_nothing((height, width), (rows, columns))
        # Pillow wants the channels contiguous.
        ordered = np.ascontiguousarray(image[..., ::-1]) if self.bgr else image
        if self.short_side:
            picture = Image.fromarray(ordered)
            ordered = np.array(picture.resize((columns, rows), Image.Resampling.BILINEAR))
        elif not ordered.flags.writeable:
            ordered = ordered.copy()  # PyTorch warns of memory that it might write
        return Prepared(torch.from_numpy(ordered), height, width)


AS_IS = Preparation()
"""The whole image in RGB: for tutors that do not say what they want."""

Views = Mapping[Preparation, Prepared]
"""One image, prepared in every way that a pair of tutors wants it."""


def prepare(ways: Iterable[Preparation], image: NDArray[np.uint8]) -> Views:
    """Prepare a (H, W, 3) uint8 RGB image in several ways; TutorError as `Preparation`."""
    return {way: way(image) for way in ways}
