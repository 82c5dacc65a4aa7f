"""Several stores over one list of images: each against the ground truth, and against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.vectors import THRESHOLD
from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import bytes_per_image
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.comparison.agreement import (
    Agreement,
    ImageDifference,
    agreement,
    image_difference,
)
from kdcli.tutor_gen.comparison.said import Said, Thresholds, said_by_store, said_by_truth
from kdcli.tutor_gen.comparison.thresholds import (
    GRID,
    best_boxes,
    best_vectors,
    chosen_thresholds,
    deciding_miou,
    with_background,
)
from kdcli.tutor_gen.quality.calibration import (
    TEMPERATURES,
    CalibrationScore,
    ThresholdScore,
    VectorThresholdScore,
)
from kdcli.tutor_gen.quality.evaluate import TutorEvaluation, evaluate_tutors
from kdcli.tutor_gen.quality.mistakes import BoxMistakes, box_mistakes
from kdcli.tutor_gen.quality.reliability import Reliability, reliability
from kdcli.tutor_gen.quality.stores import check_stores
from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import CLASS_MASKS, Devkit
from kdcli.voc.metrics import ConfusionMatrix, count_objects, frequent_classes, mean_over


@dataclass(frozen=True, eq=False)
class StoreScores:
    """One store; what it does not speak of, or what no ground truth tells, is None.

    Attributes:
        name: what it is called.
        cache: the store.
        evaluation: as `evaluate_tutors` gives it, with sweeps over `GRID` and `TEMPERATURES`.
        frequent: classes with many objects.
        thresholds: the best ones (see `best_boxes`, `best_vectors`), where there is none
            `THRESHOLD`: what follows is what the store says from them on.
        mistakes: of its boxes.
        reliability: of all its boxes.
        pixels: (K, K) int64, rows are the true classes, columns the label vectors'.
        seconds: that its tutors take for an image, where that was measured (see `timing`).
    """

    name: str
    cache: TutorCache
    evaluation: TutorEvaluation
    frequent: tuple[str, ...]
    thresholds: Thresholds
    mistakes: BoxMistakes | None
    reliability: Reliability | None
    pixels: NDArray[np.int64] | None
    seconds: float | None = None

    @property
    def best_boxes(self) -> ThresholdScore | None:
        """The boxes from the threshold with the highest F1."""
        return best_boxes(self.evaluation)

    @property
    def best_vectors(self) -> VectorThresholdScore | None:
        """The label vectors from the threshold with the highest mIoU, see `deciding_miou`."""
        return best_vectors(self.evaluation, self.frequent)

    @property
    def best_softmax(self) -> CalibrationScore | None:
        """The softmax of the temperature with the lowest cross-entropy."""
        swept = [s for s in self.evaluation.calibration if s.temperature is not None]
        known = [s for s in swept if not math.isnan(s.cross_entropy)]
        return min(known, key=lambda s: s.cross_entropy, default=None)

    @property
    def map_frequent(self) -> float | None:
        """Mean average precision of the frequent classes."""
        found = self.evaluation.detection
        return None if found is None else mean_over(found.average_precision, self.frequent)

    @property
    def miou_frequent(self) -> float | None:
        """Mean IoU of background and the frequent classes."""
        found = self.evaluation.segmentation
        names = with_background(self.evaluation, self.frequent)
        return None if found is None else mean_over(found.iou, names)

    @property
    def best_miou(self) -> float | None:
        """The mIoU that decided for `best_vectors`."""
        best = self.best_vectors
        return None if best is None else deciding_miou(best, self.evaluation, self.frequent)

    @property
    def bytes_per_image(self) -> float:
        """The size of the whole store over its images."""
        return bytes_per_image(self.cache)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Stores side by side.

    Attributes:
        stores: in the order in which they were named.
        names: of the K classes, background first.
        objects: by class name, how many the list has that are not difficult.
        images: how many images were compared.
        agreements: of each pair of stores, by their places.
        differences: of each image, between the stores; of one store, from the ground truth.
        segmentation_threshold: from which the label vectors' entries count in `evaluation`.
    """

    stores: tuple[StoreScores, ...]
    names: tuple[str, ...]
    objects: Mapping[str, int]
    images: int
    agreements: Mapping[tuple[int, int], Agreement]
    differences: tuple[ImageDifference, ...]
    segmentation_threshold: float

    @property
    def frequent(self) -> tuple[str, ...]:
        """The classes with many objects."""
        return frequent_classes(self.objects)


def compare_stores(
    stores: Mapping[str, TutorCache],
    devkit: Devkit,
    image_ids: Sequence[str],
    progress: Progress = no_progress,
    *,
    mask_folder: str = CLASS_MASKS,
    segmentation_threshold: float = THRESHOLD,
) -> Comparison:
    """Compare stores over a list of images.

    Args:
        stores: by name, at least one; each has to hold every image of the list.
        devkit: photographs and ground truth.
        image_ids: the list.
        progress: wraps the loops for a progress bar.
        mask_folder: which masks are the truth.
        segmentation_threshold: as of `evaluate_tutors`; of the scores, not of the best threshold.

    Raises:
        TutorError: a store lacks images.
        CacheError: a store was made from other photographs, or of other labels.
    """
    check_stores(list(stores.values()), devkit, image_ids)
    found = {i: devkit.annotation(i) for i in image_ids}
    annotations = {i: each for i, each in found.items() if each is not None}
    names = devkit.labels.all_names
    objects = count_objects(annotations.values(), names)
    frequent = frequent_classes(objects)
    evaluations = [
        evaluate_tutors(
            cache,
            devkit,
            image_ids,
            progress,
            mask_folder=mask_folder,
            segmentation_threshold=segmentation_threshold,
            thresholds=GRID,
            vector_thresholds=GRID,
            temperatures=TEMPERATURES,
            checked=True,
        )
        for cache in stores.values()
    ]
    thresholds = [chosen_thresholds(each, frequent) for each in evaluations]
    sums = [_Sums(*each, names) for each in zip(stores.values(), thresholds, strict=True)]
    pairs = {pair: Agreement.none(len(names)) for pair in combinations(range(len(sums)), 2)}
    differences = []
    for image_id in progress(image_ids, len(image_ids), "compare"):
        truth = said_by_truth(found[image_id], devkit.mask(image_id, mask_folder))
        size = devkit.image_size(image_id)
        said = [each.add(image_id, found[image_id], truth, size) for each in sums]
        here = {(i, j): agreement(said[i], said[j], len(names)) for i, j in pairs}
        pairs = {pair: pairs[pair].plus(each) for pair, each in here.items()}
        # One store has no other to differ from.
        apart = here.values() or [agreement(said[0], truth, len(names))]
        differences.append(image_difference(image_id, apart))
    return Comparison(
        stores=tuple(
            each.scores(name, evaluation, frequent, annotations)
            for name, evaluation, each in zip(stores, evaluations, sums, strict=True)
        ),
        names=names,
        objects=objects,
        images=len(image_ids),
        agreements=pairs,
        differences=tuple(differences),
        segmentation_threshold=segmentation_threshold,
    )


class _Sums:
    """What is added up of one store, image by image, from its best thresholds on."""

    def __init__(self, cache: TutorCache, thresholds: Thresholds, names: tuple[str, ...]) -> None:
        self.cache, self.thresholds, self.classes = cache, thresholds, len(names)
        self.mistakes, self.pixels = BoxMistakes.none(len(names)), ConfusionMatrix(names)

    def add(
        self, image_id: str, annotation: Annotation | None, truth: Said, size: tuple[int, int]
    ) -> Said:
        """Count an image, and return what the store says of it."""
        said = said_by_store(self.cache, image_id, self.thresholds, size)
        if said.boxes is not None and annotation is not None:
            self.mistakes = self.mistakes.plus(box_mistakes(said.boxes, annotation, self.classes))
        if said.class_map is not None and truth.class_map is not None:
            self.pixels.update(said.class_map, truth.class_map)
        return said

    def scores(
        self,
        name: str,
        evaluation: TutorEvaluation,
        frequent: tuple[str, ...],
        annotations: Mapping[str, Annotation],
    ) -> StoreScores:
        detected, segmented = evaluation.detection, evaluation.segmentation
        boxes = {i: self.cache.boxes(i) for i in annotations if i not in self.cache.failed}
        return StoreScores(
            name=name,
            cache=self.cache,
            evaluation=evaluation,
            frequent=frequent,
            thresholds=self.thresholds,
            mistakes=None if detected is None else self.mistakes,
            reliability=None if detected is None else reliability(boxes, annotations),
            pixels=None if segmented is None else self.pixels.counts,
        )
