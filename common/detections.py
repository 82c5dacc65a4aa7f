"""Boxes with their classes and scores: what detectors say, stores keep and metrics read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2, 0-based continuous pixels of the original image (within
            the student's input pipeline: relative to the sample).
        labels: (n,) integers, class ids from 1.
        scores: (n,) float32, 0..1.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.integer]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def none(cls) -> Self:
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.float32))

    def take(self, rows: NDArray[Any]) -> Self:
        """Return the detections that ``rows`` (indices or a mask) names."""
        return replace(
            self, boxes=self.boxes[rows], labels=self.labels[rows], scores=self.scores[rows]
        )
