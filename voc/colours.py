"""The colours of label images as arrays: the VOC devkit's, and which label a colour is of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcli.voc.labels import devkit_colour

PALETTE: NDArray[np.uint8] = np.array([devkit_colour(label) for label in range(256)], np.uint8)
"""(256, 3) uint8 RGB, the palette of every mask whose labels have no colours of their own."""
PALETTE.flags.writeable = False


def labels_of_colours(
    colours: NDArray[np.uint8], palette: NDArray[np.uint8] = PALETTE
) -> NDArray[np.int16]:
    """Return the label of each colour, the lowest of several that share it.

    Args:
        colours: (..., 3) uint8 RGB.
        palette: (256, 3) uint8 RGB.

    Returns:
        (...) int16: 0..255, or -1 for a colour that the palette lacks.

    >>> labels_of_colours(np.array([[192, 128, 128], [224, 224, 192], [255, 0, 0]], np.uint8))
    array([ 15, 255,  -1], dtype=int16)
    """
    known, wanted = _numbers(palette), _numbers(colours)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    label = order[place]
    return np.where(known[label] == wanted, label, -1).astype(np.int16)


def _numbers(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(..., 3) colours as (...) numbers."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue
