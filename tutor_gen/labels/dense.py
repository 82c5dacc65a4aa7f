"""Label vectors of a dense tutor: the class probabilities of its network's own cells, rounded.

They stay at the resolution of the network's output, before any upsampling: nothing is stored that
the network did not say, and a student interpolates what it needs (`cache.format.grid`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.grid import spread, whole_window
from kdcli.tutor_gen.labels.hard import IndexMap
from kdcli.tutor_gen.labels.soft import Planes, code_planes, with_levels_that_fit
from kdcli.tutor_gen.tutors.tutor import SemanticOutput
from kdcli.voc.classes import NUM_CLASSES


@dataclass(frozen=True, eq=False)
class Coded:
    """The label vectors of one image, as the store takes them.

    Attributes:
        index_map: (H, W), or (h, w) cells of a dense tutor.
        palette: (k, 21) float32.
        dropped: How many of the tutor's objects are not in them, by reason.
        window: (4,) float32, where in a dense tutor's cells the image lies.
    """

    index_map: IndexMap
    palette: NDArray[np.float32]
    dropped: Mapping[str, int] = field(default_factory=dict)
    window: NDArray[np.float32] | None = None


def code_semantic(said: SemanticOutput, levels: int, height: int, width: int) -> Coded:
    """Code the label vectors of one image, every entry rounded to multiples of 1 / levels.

    Args:
        said: checked.
        levels: how many steps from 0 to 1; an entry is at most half a step off.
        height: image height in pixels.
        width: image width in pixels.
    """
    probabilities, window = said.probabilities, said.window
    rows, columns = probabilities.shape[1:]
    if window is None:
        window = whole_window(rows, columns)
    if rows * columns > height * width:  # of a tiny image: no store has more cells than pixels
        pixels = spread(probabilities.transpose(1, 2, 0), window, height, width)
        probabilities, window = pixels.transpose(2, 0, 1), whole_window(height, width)

    def code(steps: int) -> tuple[IndexMap, NDArray[np.float32]]:
        rounded = np.rint(probabilities * np.float32(steps)).astype(np.uint8)
        planes: Planes = {label: plane for label, plane in enumerate(rounded) if plane.any()}
        return code_planes(planes, rounded.shape[1:], steps)

    index_map, palette = with_levels_that_fit(code, levels)
    return Coded(index_map, palette, said.dropped, window.astype(np.float32))


def to_voc(probabilities: NDArray[np.float32], voc_ids: NDArray[np.integer]) -> NDArray[np.float32]:
    """Probabilities (21, h, w) of VOC's classes from those of a tutor's own (K, h, w).

    Classes of one VOC class add up; all that are none of VOC's are background.

    Args:
        probabilities: (K, h, w) float32.
        voc_ids: (K,) the VOC class of each, 0 for none.
    """
    adds = np.zeros((NUM_CLASSES, len(voc_ids)), np.float32)
    adds[voc_ids, np.arange(len(voc_ids))] = 1
    return np.tensordot(adds, probabilities, axes=1)
