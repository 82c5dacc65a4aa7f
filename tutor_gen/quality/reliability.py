"""Is a box's score the chance that it is right?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.tutor_gen.quality.calibration import BINS
from kdcli.voc.annotation import Annotation
from kdcli.voc.metrics.detection import judge

LEAST_SCORE = 0.05
"""Boxes below it are left out, as Detectron2 leaves them out by default.

They are many and nearly all wrong, which is what they say: a store with a lower floor would look
calibrated by their number alone.
"""


@dataclass(frozen=True)
class Reliability:
    """Boxes by their score, in `BINS` bins of equal width over 0..1.

    Attributes:
        boxes: how many boxes count in each bin.
        scores: their mean score; nan in an empty bin.
        precision: the share of right ones among them; nan in an empty bin.
    """

    boxes: tuple[int, ...]
    scores: tuple[float, ...]
    precision: tuple[float, ...]

    @property
    def error(self) -> float:
        """The detection expected calibration error; nan without boxes.

        The mean over the boxes of their bin's | mean score - precision |, bins over the score
        alone: Küppers et al., "Multivariate Confidence Calibration for Object Detection" (CVPR
        Workshops 2020).
        """
        return self._mean(np.abs(np.subtract(self.scores, self.precision)))

    @property
    def excess(self) -> float:
        """The mean score less the precision of all boxes: above 0 the scores promise too much."""
        return self._mean(np.subtract(self.scores, self.precision))

    def _mean(self, values: NDArray[np.float64]) -> float:
        """Mean over the boxes of a value of their bin; nan without boxes."""
        counts = np.array(self.boxes)
        return float(np.nansum(counts * values) / counts.sum()) if counts.any() else float("nan")


def reliability(
    predictions: Mapping[str, Detections],
    annotations: Mapping[str, Annotation],
    least: float = LEAST_SCORE,
) -> Reliability:
    """Compare scores with how often they are right, by the rules of `voc.metrics.detection.judge`.

    Boxes on difficult objects count neither way.

    Args:
        predictions: by image id.
        annotations: by image id, of at least those images.
        least: boxes of lower score are left out.
    """
    sums = np.zeros((BINS, 3))
    for image_id, found in predictions.items():
        right, counts = judge(found, annotations[image_id])
        counts &= found.scores >= np.float32(least)
        scores = found.scores[counts].astype(np.float64)
        bins = np.minimum((found.scores[counts] * BINS).astype(int), BINS - 1)
        rows = np.stack([np.ones(len(scores)), scores, right[counts]], axis=1)
        np.add.at(sums, bins, rows)
    boxes = sums[:, 0]
    score, precision = (_mean(column, boxes) for column in sums[:, 1:].T)
    return Reliability(tuple(int(n) for n in boxes), score, precision)


def _mean(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, ...]:
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return tuple(float(value) for value in means)
