"""The 20 classes of PASCAL VOC, background, void, and the devkit's colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Class names by id: background is 0, the 20 object classes follow alphabetically."""

NUM_CLASSES = len(CLASSES)
"""21, background included."""

VOID = 255
"""The mask value of pixels that count for nothing (borders, crowds)."""

CLASS_IDS: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}
"""Class id by name, background included."""


def devkit_palette(size: int = 256) -> NDArray[np.uint8]:
    """Return the colours of the VOC devkit's label images (its ``VOClabelcolormap``).

    The bits of a label are dealt out in turn to red, green and blue, the most significant bit of
    each colour first, so that neighbouring labels get clearly different colours.

    Args:
        size: number of labels, at most 256.

    Returns:
        (size, 3) uint8 RGB.

    >>> devkit_palette()[[0, 1, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    labels = np.arange(size)
    palette = np.zeros((size, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (labels >> (3 * bit + channel)) & 1
            palette[:, channel] |= (value << (7 - bit)).astype(np.uint8)
    return palette


PALETTE: NDArray[np.uint8] = devkit_palette()
"""(256, 3) uint8 RGB, the palette of every mask that the devkit and this project write."""
PALETTE.flags.writeable = False
