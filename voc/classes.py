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


def _label_bits() -> NDArray[np.uint16]:
    """Undo `devkit_palette`: (3, 256), the bits of a label that a value of each colour holds."""
    bits = np.full((3, 256), _NO_LABEL, dtype=np.uint16)
    for channel in range(3):
        own = sum(1 << bit for bit in range(channel, 8, 3))
        labels = np.arange(256) & own
        bits[channel, PALETTE[labels, channel]] = labels
    return bits


_NO_LABEL = 256
_BITS = _label_bits()


def labels_of_colours(colours: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the label of each devkit colour.

    Args:
        colours: (..., 3) uint8 RGB.

    Returns:
        (...) int16: 0..255, or -1 for a colour that `PALETTE` lacks.

    >>> labels_of_colours(np.array([[192, 128, 128], [224, 224, 192], [255, 0, 0]], np.uint8))
    array([ 15, 255,  -1], dtype=int16)
    """
    red, green, blue = (_BITS[channel][colours[..., channel]] for channel in range(3))
    labels = (red + green + blue).astype(np.int16)  # where -1 has a place
    return np.where(labels < _NO_LABEL, labels, np.int16(-1))
