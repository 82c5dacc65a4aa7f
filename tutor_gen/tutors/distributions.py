"""What a tutor says about all of its classes, as much of it as is about the labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def label_part(
    probabilities: NDArray[np.float32],
    numbers: NDArray[np.integer],
    ids: NDArray[np.uint8],
    classes: int,
) -> NDArray[np.float32]:
    """Return (n, ``classes``) float32 of (n, K): what is no label, and background, is left out.

    Args:
        probabilities: of the tutor's K classes.
        numbers: (n,) class number of each detection; its own probability stays its class's entry,
            even if another name of the same label has a larger one.
        ids: (K,) or fewer: class id of each number, 0 for none.
        classes: of the data set, background included.
    """
    part = np.zeros((len(probabilities), classes), dtype=np.float32)
    for number in np.flatnonzero(ids):
        entry = part[:, ids[number]]
        np.maximum(entry, probabilities[:, number], out=entry)
    rows = np.arange(len(numbers))
    part[rows, ids[numbers]] = probabilities[rows, numbers]
    part[:, 0] = 0
    return part
