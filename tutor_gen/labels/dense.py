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
from kdcli.voc.classes import VOC


@dataclass(frozen=True, eq=False)
class Coded:
    """The label vectors of one image, as the store takes them.

    Attributes:
        index_map: (H, W), or (h, w) cells of a dense tutor.
        palette: (k, K) float32.
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
        return code_planes(planes, rounded.shape[1:], steps, len(rounded))

    index_map, palette = with_levels_that_fit(code, levels)
    return Coded(index_map, palette, said.dropped, window.astype(np.float32))


def to_labels(
    probabilities: NDArray[np.float32], ids: NDArray[np.integer], classes: int = VOC.size
) -> NDArray[np.float32]:
    """Probabilities (``classes``, h, w) of the labels from those of a tutor's own (K, h, w).

    Classes of one label add up; all that are no labels are background.

    Args:
        probabilities: (K, h, w) float32.
        ids: (K,) the class id of each, 0 for none.
        classes: of the data set, background included.
    """
    adds = np.zeros((classes, len(ids)), np.float32)
    adds[ids, np.arange(len(ids))] = 1
    return np.tensordot(adds, probabilities, axes=1)
