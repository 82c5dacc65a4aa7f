"""A photograph decoded fast, whole or at a fraction of its size: for training and inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from kdcli.voc.images import read_photograph, read_size

REDUCTIONS = (1, 2, 4)
"""The fractions 1/r that libjpeg-turbo decodes faster than the whole, from blocks of 8 x 8 pixels.

Not 1/8: there it takes the colour of 4:2:0 files, nearly all photographs, from too few values.
"""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A JPEG file in memory whose size is known, decoded when asked.

    libjpeg-turbo (simplejpeg) decodes; what it refuses is left to `voc.images.read_photograph`,
    so that exactly the files that one accepts are accepted, and refused with its messages. As
    there, EXIF orientation is ignored, and grey and CMYK files become RGB. Pixels differ from
    Pillow's, which brings its own build of the library, by rounding at most.

    Attributes:
        path: The file.
        height: In pixels.
        width: In pixels.
        content: The file's bytes.
    """

    path: Path
    height: int
    width: int
    content: bytes

    @classmethod
    def open(cls, path: Path) -> Photograph:
        """Read the file, and its size from the header.

        Raises:
            DevkitError: see `voc.images.read_size`.
        """
        try:
            content = path.read_bytes()
            height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        except (OSError, ValueError):
            height, width = read_size(path)
            content = b""
        if height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            content = b""  # Pillow decides how large is too large.
        return cls(path, height, width, content)

    def decode(self, reduction: int = 1) -> NDArray[np.uint8]:
        """Decode to 1/``reduction`` of the size, rounded up: (H', W', 3) uint8 RGB.

        Pixel k of a reduced axis stands for the pixels ``reduction * k`` and following of the
        whole one: nearly their mean, without a shift.

        Raises:
            DevkitError: see `voc.images.read_photograph`.
        """
        if reduction not in REDUCTIONS:
            raise ValueError(f"Expected a reduction of {REDUCTIONS}, got {reduction}")
        try:
            image: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                self.content,
                min_height=-(-self.height // reduction) if reduction > 1 else 0,
                min_width=-(-self.width // reduction) if reduction > 1 else 0,
                min_factor=reduction,
            )
        except ValueError:
            image = read_photograph(self.path)
            return np.array(Image.fromarray(image).reduce(reduction))
        return image
