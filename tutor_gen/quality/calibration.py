"""How sure may one be of a tutor? Its confidence thresholds and softmax temperatures, swept.

The thesis (section 4.2) chooses the threshold on tutor boxes and the temperature of the label
vectors' softmax by sweeping them. Label vectors have a threshold, too. The cache is read elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.vectors import background_mass, from_threshold, winners
from kdcli.common.detections import Detections
from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES
from kdcli.voc.labels import VOID
from kdcli.voc.metrics.detection import evaluate_detections, judge
from kdcli.voc.metrics.segmentation import intersection_over_union

THRESHOLDS: tuple[float | None, ...] = (None, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7)
"""Of boxes. None keeps all that the cache holds."""
VECTOR_THRESHOLDS: tuple[float | None, ...] = (
    None, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9,
)  # fmt: skip
"""Of label vectors' entries."""
TEMPERATURES = (0.05, 0.1, 0.15, 0.25, 0.35, 0.4, 0.45, 0.5, 0.75, 1.0, 2.0)
"""Those of the thesis (figure 14) and beyond."""
BINS = 15
"""Of the expected calibration error, as Guo et al. (ICML 2017) use."""
LEAST_PROBABILITY = 1e-4
"""A probability below it counts as it: one pixel given 0 would make the mean infinite."""
_TOGETHER = 4096
"""Vectors of one step: what is made of them stays in the processor's cache."""


@dataclass(frozen=True)
class ThresholdScore:
    """The boxes of at least a confidence.

    Attributes:
        threshold: the least confidence; None for all boxes.
        map: mean average precision at IoU .5, area under the curve.
        boxes: how many boxes.
        precision: share of right ones among those that count; nan without any.
        recall: share of the objects, of all classes together, that they find; nan without objects.
    """

    threshold: float | None
    map: float
    boxes: int
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; nan if one is undefined."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else total


def sweep_thresholds(
    predictions: Mapping[str, Detections],
    annotations: Mapping[str, Annotation],
    thresholds: Sequence[float | None] = THRESHOLDS,
    names: Sequence[str] = CLASSES,
) -> tuple[ThresholdScore, ...]:
    """Score the boxes above each threshold; difficult objects are ignored as the devkit does.

    Args:
        predictions: by image id.
        annotations: by image id, every image that is evaluated.
        thresholds: least confidences.
        names: of the classes, background first.
    """
    objects = sum(int((~each.difficult).sum()) for each in annotations.values())
    none = np.zeros(0, dtype=np.bool_)
    verdicts = [judge(boxes, annotations[image_id]) for image_id, boxes in predictions.items()]
    right = np.concatenate([none, *(r for r, _ in verdicts)])
    counts = np.concatenate([none, *(c for _, c in verdicts)])
    scores = np.concatenate([none, *(each.scores for each in predictions.values())])
    results = []
    for threshold in thresholds:
        least = 0.0 if threshold is None else threshold
        # In float32, as the confidences are: 0.001 keeps a box of exactly that.
        kept = scores >= np.float32(least)
        found, judged = int((right & kept).sum()), int((counts & kept).sum())
        chosen = {i: _at_least(boxes, least) for i, boxes in predictions.items()}
        results.append(
            ThresholdScore(
                threshold,
                evaluate_detections(chosen, annotations, names=names).map,
                int(kept.sum()),
                found / judged if judged else float("nan"),
                found / objects if objects else float("nan"),
            )
        )
    return tuple(results)


def _at_least(found: Detections, threshold: float) -> Detections:
    return found.take(found.scores >= np.float32(threshold))


class VectorCounts(NamedTuple):
    """Pixels of an image by label vector and true class: the pairs that occur, by rising vector.

    Of a dense tutor every pixel has a vector of its own, and a whole table would be empty but for
    one entry a row.

    Attributes:
        vectors: (n,) rows of the palette.
        classes: (n,) true class ids.
        pixels: (n,) how many.
    """

    vectors: NDArray[np.intp]
    classes: NDArray[np.intp]
    pixels: NDArray[np.int64]


def count_vectors(
    index_map: NDArray[np.integer], palette: NDArray[np.float32], truth: NDArray[np.uint8]
) -> VectorCounts:
    """Count an image's pixels by their label vector and their true class.

    Args:
        index_map: (H, W) rows of the palette.
        palette: (k, K) label vectors.
        truth: (H, W) class ids; void is left out.
    """
    known = truth != VOID
    cells = index_map[known].astype(np.int64) * palette.shape[1] + truth[known]
    pixels = np.bincount(cells)
    found = np.flatnonzero(pixels)
    return VectorCounts(*np.divmod(found, palette.shape[1]), pixels[found])


@dataclass(frozen=True)
class VectorThresholdScore:
    """The classes of label vectors without the entries below a confidence.

    Attributes:
        threshold: the least confidence; None for all entries.
        miou: mean intersection over union.
        pixel_accuracy: share of pixels with the right class; nan without any.
        covered: share of the pixels that get another class than background; nan without any.
        iou: intersection over union by class name, as in `voc.metrics.SegmentationResult`.
    """

    threshold: float | None
    miou: float
    pixel_accuracy: float
    covered: float
    iou: Mapping[str, float]


class VectorSums:
    """Adds up, image by image, what label vectors from one threshold on say of pixels.

    Attributes:
        counts: (K, K) int64, rows are the true classes, columns the vectors'.
    """

    def __init__(self, threshold: float | None, names: Sequence[str] = CLASSES) -> None:
        self.threshold = threshold
        self._names = names
        self.counts: NDArray[np.int64] = np.zeros((len(names), len(names)), dtype=np.int64)

    def add(self, palette: NDArray[np.float32], counts: VectorCounts) -> None:
        """Count one image, see `count_vectors`; a pixel is of the class that the student learns."""
        said = winners(from_threshold(palette, self.threshold or 0.0))
        np.add.at(self.counts, (counts.classes, said[counts.vectors]), counts.pixels)

    def score(self) -> VectorThresholdScore:
        """Return the score of everything counted so far."""
        found = intersection_over_union(self.counts, names=self._names)
        total = int(self.counts.sum())
        covered = int(self.counts[:, 1:].sum()) / total if total else float("nan")
        return VectorThresholdScore(
            self.threshold, found.miou, found.pixel_accuracy, covered, found.iou
        )


@dataclass(frozen=True)
class CalibrationScore:
    """Distributions made of label vectors, against the classes of the pixels.

    Attributes:
        temperature: T of softmax(v / T); None for the background form.
        cross_entropy: mean of -log p(true class), p at least `LEAST_PROBABILITY`; nats.
        calibration_error: expected calibration error over `BINS` bins of equal width.
        brier: mean of the summed squared differences from the true class's one-hot vector, 0..2.
        entropy: mean entropy of the distributions; nats.
    """

    temperature: float | None
    cross_entropy: float
    calibration_error: float
    brier: float
    entropy: float


def softmax_form(vectors: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Return softmax(v / T) of (k, K) label vectors, the thesis' target; all zero is background.

    In the student: `student.losses.soft_labels.label_vector_target`.
    """
    scaled = vectors.astype(np.float64) / temperature
    scaled[(vectors == 0).all(axis=1), 0] = 1 / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def background_form(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return (k, K) label vectors as distributions: what they lack of 1 is background.

    The background form of the student's targets, `student.losses.soft_labels`.
    """
    completed = vectors.astype(np.float64)
    completed[:, 0] = background_mass(completed[:, 0], 1 - completed[:, 1:].max(axis=1))
    return np.asarray(completed / completed.sum(axis=1, keepdims=True))


@dataclass
class CalibrationSums:
    """Adds up, image by image, what one `CalibrationScore` is made of."""

    temperature: float | None
    pixels: float = 0.0
    cross_entropy: float = 0.0
    brier: float = 0.0
    entropy: float = 0.0
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((BINS, 2)))
    """Per bin: summed confidence and right pixels."""

    def add(self, vectors: NDArray[np.float32], counts: VectorCounts) -> None:
        """Count one image: (k, K) label vectors, and their pixels by true class."""
        for start in range(0, len(vectors), _TOGETHER):
            first, last = np.searchsorted(counts.vectors, (start, start + _TOGETHER))
            rows, true, pixels = (column[first:last] for column in counts)
            self._add(vectors[start : start + _TOGETHER], rows - start, true, pixels)

    def _add(
        self,
        vectors: NDArray[np.float32],
        rows: NDArray[np.intp],
        true: NDArray[np.intp],
        pixels: NDArray[np.int64],
    ) -> None:
        t = self.temperature
        p = background_form(vectors) if t is None else softmax_form(vectors, t)
        each, of_truth = np.bincount(rows, pixels, len(p)), p[rows, true]
        self.pixels += float(each.sum())
        log_p = np.log(np.maximum(of_truth, LEAST_PROBABILITY))
        self.cross_entropy -= float((pixels * log_p).sum())
        self.entropy -= float((each * (p * np.log(np.where(p > 0, p, 1))).sum(axis=1)).sum())
        # |p - y|^2 = sum of p^2 - 2 p[true] + 1
        squares = (each * ((p**2).sum(axis=1) + 1)).sum()
        self.brier += float(squares - 2 * (pixels * of_truth).sum())
        confidence, said = p.max(axis=1), p.argmax(axis=1)
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        np.add.at(self.bins[:, 0], bins, confidence * each)
        np.add.at(self.bins[:, 1], bins[rows], pixels * (said[rows] == true))

    def score(self) -> CalibrationScore:
        """Return the means over all pixels so far; nan without any."""
        n = self.pixels or float("nan")
        apart = float(np.abs(self.bins[:, 0] - self.bins[:, 1]).sum())
        sums = (self.cross_entropy, apart, self.brier, self.entropy)
        return CalibrationScore(self.temperature, *(value / n for value in sums))
