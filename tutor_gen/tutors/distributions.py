"""The VOC part of what a tutor says about all of its classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcli.voc.classes import NUM_CLASSES


def voc_part(
    probabilities: NDArray[np.float32], numbers: NDArray[np.integer], voc_ids: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return (n, 21) float32 of (n, K): classes that VOC lacks, and background, are left out.

    Args:
        probabilities: of the tutor's K classes.
        numbers: (n,) class number of each detection; its own probability stays its class's entry,
            even if another name of the same VOC class has a larger one.
        voc_ids: (K,) or fewer: VOC class id of each number, 0 for none.
    """
    part = np.zeros((len(probabilities), NUM_CLASSES), dtype=np.float32)
    for number in np.flatnonzero(voc_ids):
        entry = part[:, voc_ids[number]]
        np.maximum(entry, probabilities[:, number], out=entry)
    rows = np.arange(len(numbers))
    part[rows, voc_ids[numbers]] = probabilities[rows, numbers]
    part[:, 0] = 0
    return part
