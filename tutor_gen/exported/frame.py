"""From the pixels of what an export was given to those of the photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.fitted import Window, window_of
from kdcli.tutor_gen.tutors.preparation import Preparation

_SMALLEST_FRAME = 16
"""Pixels of an input's side from which boxes within the first one cannot be meant so."""


@dataclass(frozen=True)
class Frame:
    """Where a photograph lies in what an export was given.

    Attributes:
        given: height and width of the tensor.
        window: the part of it that shows the photograph.
        original: height and width of the photograph.
    """

    given: tuple[int, int]
    window: Window
    original: tuple[int, int]

    @classmethod
    def of(cls, way: Preparation, original: tuple[int, int]) -> Frame:
        """Return the frame of a photograph of a size that was prepared in a way."""
        return cls(way.shape(*original), window_of(way, *original), original)

    def boxes(self, boxes: NDArray[np.float32], box_frame: str) -> NDArray[np.float32]:
        """Return boxes x1 y1 x2 y2, in pixels of the tensor or relative to it, in the original's.

        Exactly a multiplication where nothing is padded.
        """
        unit = self.given if box_frame == "relative" else (1, 1)
        offset = np.array([self.window.left / unit[1], self.window.top / unit[0]] * 2)
        size = (self.window.columns / unit[1], self.window.rows / unit[0])
        scale = np.array([self.original[1] / size[0], self.original[0] / size[1]] * 2)
        moved: NDArray[np.float32] = (boxes - offset.astype(np.float32)) * scale.astype(np.float32)
        return moved


def check_frame(
    path: Path, boxes: NDArray[np.float32], scores: NDArray[np.float32], given: tuple[int, int]
) -> None:
    """Refuse boxes 0..1 that would be taken for pixels: all of them lie in the first one."""
    sure = len(boxes) > 0 and scores.max() >= 0.5
    if sure and min(given) >= _SMALLEST_FRAME and boxes.max() <= 1:
        raise TutorError(
            f"{path} gives boxes that all lie within the first pixel, such as "
            f'{boxes[0].round(3).tolist()}: should its sidecar say box_frame = "relative"?'
        )
