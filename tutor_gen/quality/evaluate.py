"""How good are the tutors? Their cache against the devkit's ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcli.cache.format.vectors import THRESHOLD
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.quality.calibration import (
    CalibrationScore,
    CalibrationSums,
    ThresholdScore,
    VectorSums,
    VectorThresholdScore,
    count_vectors,
    sweep_thresholds,
)
from kdcli.tutor_gen.quality.masks import compare_masks
from kdcli.tutor_gen.quality.pixels import pixel_vectors
from kdcli.tutor_gen.quality.stores import check_stores
from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import (
    Compared,
    DetectionResult,
    InstanceResult,
    SegmentationResult,
    count_objects,
    evaluate_detections,
    evaluate_instances,
    frequent_classes,
    intersection_over_union,
)


@dataclass(frozen=True)
class TutorEvaluation:
    """The tutors' scores; a role the cache lacks, or without any ground truth, is None.

    Attributes:
        detection: average precision of the boxes, over the images with annotations.
        segmentation: intersection over union of the label vectors' classes as the student reads
            them (`cache.format.vectors`), over the images with masks.
        thresholds: the boxes from each confidence threshold that was asked for.
        vector_thresholds: the label vectors from each of theirs.
        calibration: the label vectors' softmax at each temperature that was asked for, and last
            their background form.
    """

    detection: DetectionResult | None
    segmentation: SegmentationResult | None
    thresholds: tuple[ThresholdScore, ...] = ()
    vector_thresholds: tuple[VectorThresholdScore, ...] = ()
    calibration: tuple[CalibrationScore, ...] = ()
    instances: InstanceResult | None = None


def evaluate_tutors(
    cache: TutorCache,
    devkit: Devkit,
    image_ids: Sequence[str],
    progress: Progress = no_progress,
    *,
    mask_folder: str = "SegmentationClass",
    segmentation_threshold: float = THRESHOLD,
    thresholds: Sequence[float | None] = (),
    vector_thresholds: Sequence[float | None] = (),
    temperatures: Sequence[float] = (),
    checked: bool = False,
) -> TutorEvaluation:
    """Score a cache against ground truth, as the thesis does in its section on the tutors.

    Args:
        cache: has to hold every image; an image whose labelling failed counts as one where the
            tutors found nothing.
        devkit: gives the ground truth.
        image_ids: which images.
        progress: wraps the loop for a progress bar.
        mask_folder: which masks are the truth.
        segmentation_threshold: entries of label vectors below it do not exist, as for a student
            with that ``targets.segmentation.threshold``.
        thresholds: of the boxes' confidence, None for all boxes; see `calibration`.
        vector_thresholds: of the label vectors' entries, None for all.
        temperatures: of the label vectors' softmax; no threshold applies there.
        checked: whether the caller has looked with `check_stores`, which digests every photograph.

    Raises:
        TutorError: an image is not in the cache.
        CacheError: the cache was made from other photographs.
    """
    if not checked:
        check_stores([cache], devkit, image_ids)
    predictions: dict[str, Detections] = {}
    annotations: dict[str, Annotation] = {}
    names = devkit.labels.all_names
    own, *swept = (VectorSums(t, names) for t in (segmentation_threshold, *vector_thresholds))
    softened = [CalibrationSums(t) for t in (*temperatures, None)] if temperatures else []
    everything: list[VectorSums | CalibrationSums] = [own, *swept, *softened]
    masks, compared = 0, list[Compared]()
    for image_id in progress(image_ids, len(image_ids), "evaluate"):
        annotation = devkit.annotation(image_id)
        if annotation is not None:
            annotations[image_id] = annotation
            if "detection" in cache.roles:
                predictions[image_id] = _detections(cache, image_id)
        if "segmentation" in cache.roles:
            truth = devkit.mask(image_id, mask_folder)
            if truth is not None:
                index_map, palette = pixel_vectors(cache, image_id, truth.shape)
                counts = count_vectors(index_map, palette, truth)
                for sums in everything:
                    sums.add(palette, counts)
                masks += 1
        compared += compare_masks(cache, devkit, image_id)
    # Objects say which classes are frequent, also where no tutor looked for them.
    frequent = frequent_classes(count_objects(annotations.values(), names))
    detected = bool(annotations) and "detection" in cache.roles
    return TutorEvaluation(
        evaluate_detections(predictions, annotations, names=names) if detected else None,
        intersection_over_union(own.counts, frequent, names) if masks else None,
        sweep_thresholds(predictions, annotations, thresholds, names) if detected else (),
        tuple(sums.score() for sums in swept) if masks else (),
        tuple(sums.score() for sums in softened) if masks else (),
        evaluate_instances(compared, names) if compared else None,
    )


def _detections(cache: TutorCache, image_id: str) -> Detections:
    if image_id in cache.failed:
        return Detections.none()
    return cache.boxes(image_id)
