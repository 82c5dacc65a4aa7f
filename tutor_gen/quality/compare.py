"""How far a cache is from what its tutors say now: on other hardware, with other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.record import InstanceMasks, TutorOutput
from kdcli.cache.format.vectors import winners
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.quality.stores import spread_over
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics.detection import box_iou

LEAST_IOU = 0.5
"""Boxes of one class that overlap by at least this can be counterparts."""


@dataclass(frozen=True)
class Tolerance:
    """How far apart two runs may be that say the same.

    Attributes:
        reason: why they may.
        coordinate: largest difference of counterparts' coordinates, in pixels.
        confidence: largest difference of confidences, of label vectors' entries, and of kept
            masks' probabilities (both beyond the step of their rounding).
        share: of boxes that may lack a counterpart (suppression of overlapping boxes decides
            between nearly equal ones), and of pixels that may have another class or vector (at
            the masks' borders).
    """

    reason: str
    coordinate: float
    confidence: float
    share: float


ALIKE = Tolerance("the same device, precision and versions", 1e-3, 1e-3, 1e-5)
OTHER_MACHINE = Tolerance("another device or other versions", 0.05, 2e-3, 2e-3)
OTHER_MACHINE_16_BIT = Tolerance("16 bits on another device or other versions", 8.0, 0.05, 0.05)

COMPARED = ("device", "tf32", "torch", "torchvision", "detectron2")
"""What an environment says that numbers depend on."""


def environment_differences(
    environments: Sequence[Mapping[str, str]], now: Mapping[str, str]
) -> list[str]:
    """Return what differs between the runs that made a store and ``now``, a line each."""
    lines = []
    for name in COMPARED:
        then = list(dict.fromkeys(each.get(name, "not recorded") for each in environments))
        here = now.get(name, "not recorded")
        if then != [here]:
            lines.append(f"{name}: {' / '.join(then)} in the store, {here} now")
    return lines


def tolerance_for(pair: TutorPair, differences: Sequence[str]) -> Tolerance:
    """Return the tolerance for tutors that run where `environment_differences` says so."""
    if not differences:
        return ALIKE
    tutors = (pair.detection, pair.segmentation)
    in_16_bit = any(tutor is not None and "amp" in tutor.description for tutor in tutors)
    return OTHER_MACHINE_16_BIT if in_16_bit else OTHER_MACHINE


@dataclass(frozen=True)
class Difference:
    """How far apart two outputs are, over one image or many.

    Attributes:
        images: images compared.
        boxes: boxes in the cache.
        identical_boxes: those of them that the tutors gave again bit for bit, with label and
            confidence.
        unmatched_boxes: boxes of either side without a counterpart of their class, whose
            confidence is more above the threshold than the tolerance allows.
        coordinate: largest difference of a coordinate between counterparts, in pixels.
        confidence: largest difference of their confidences.
        pixels: pixels compared.
        equal_pixels: those of equal label vectors, bit for bit.
        other_class_pixels: those of another class.
        other_vector_pixels: those of which an entry differs beyond the tolerance and one step of
            rounding.
        mask: largest difference of a kept mask probability beyond one step (1/255) of its
            quantisation, 1 where the instances are others; 0 without kept masks.
    """

    images: int = 0
    boxes: int = 0
    identical_boxes: int = 0
    unmatched_boxes: int = 0
    coordinate: float = 0.0
    confidence: float = 0.0
    pixels: int = 0
    equal_pixels: int = 0
    other_class_pixels: int = 0
    other_vector_pixels: int = 0
    mask: float = 0.0

    def within(self, tolerance: Tolerance) -> bool:
        """Whether nothing differs by more than that."""
        return (
            self.coordinate <= tolerance.coordinate
            and max(self.confidence, self.mask) <= tolerance.confidence
            and self.unmatched_boxes <= tolerance.share * self.boxes
            and max(self.other_class_pixels, self.other_vector_pixels)
            <= tolerance.share * self.pixels
        )

    def plus(self, other: Difference) -> Difference:
        """Both together: counts added, the larger of the differences."""
        mine, theirs = asdict(self), asdict(other)
        return Difference(
            **{
                name: max(value, theirs[name]) if isinstance(value, float) else value + theirs[name]
                for name, value in mine.items()
            }
        )


def compare_with_tutors(
    cache: TutorCache,
    pair: TutorPair,
    devkit: Devkit,
    images: int,
    progress: Progress = no_progress,
    *,
    tolerance: Tolerance = ALIKE,
) -> Difference:
    """Let the tutors label some images again and compare.

    Args:
        cache: what they said.
        pair: the tutors.
        devkit: where the photographs lie.
        images: how many of the cache's images, evenly spread over it.
        progress: wraps the loop over images for a progress bar.
        tolerance: decides which confidences and vectors count as others.

    Raises:
        CacheError: a photograph is another one than the cache was made of.
        DevkitError: a photograph is missing or broken.
        TutorError: an output cannot be true.
    """
    ids = spread_over(cache, devkit, images)
    total = Difference()
    for image_id in progress(ids, len(ids), "tutors"):
        again, _ = pair.label(devkit.read_image(image_id), image_id)
        total = total.plus(
            difference(
                cache[image_id],
                again,
                pair.config.detection.score_threshold,
                pair.rounding_step,
                tolerance,
            )
        )
    return total


def difference(
    stored: TutorOutput,
    again: TutorOutput,
    score_threshold: float,
    rounding_step: float = 0.0,
    tolerance: Tolerance = ALIKE,
) -> Difference:
    """Compare two outputs about one image, made with one threshold and one rounding of entries."""
    boxes, others = stored.detections, again.detections
    pairs = list(counterparts(boxes, others))
    coordinate, confidence, identical = 0.0, 0.0, 0
    for i, j in pairs:
        apart = float(np.abs(boxes.boxes[i] - others.boxes[j]).max())
        shift = abs(float(boxes.scores[i]) - float(others.scores[j]))
        coordinate, confidence = max(coordinate, apart), max(confidence, shift)
        identical += apart == 0 and shift == 0
    alone = _without(boxes, [i for i, _ in pairs]) + _without(others, [j for _, j in pairs])
    entry, other_class = _vector_differences(stored, again)
    return Difference(
        images=1,
        boxes=len(boxes.boxes),
        identical_boxes=identical,
        unmatched_boxes=sum(c - score_threshold > tolerance.confidence for c in alone),
        coordinate=coordinate,
        confidence=confidence,
        pixels=entry.size,
        equal_pixels=int((entry == 0).sum()),
        other_class_pixels=int(other_class.sum()),
        other_vector_pixels=int((entry > rounding_step + tolerance.confidence).sum()),
        mask=_mask_difference(stored.instances, again.instances),
    )


def counterparts(boxes: Detections, others: Detections) -> Iterator[tuple[int, int]]:
    """Pairs of boxes of the same label, the ones that overlap most first, each box once."""
    overlap = np.where(
        boxes.labels[:, None] == others.labels[None], box_iou(boxes.boxes, others.boxes), 0
    )
    i, j = np.nonzero(overlap >= LEAST_IOU)
    shift = np.abs(boxes.scores[i] - others.scores[j])
    order = np.lexsort((shift, -overlap[i, j]))
    taken: tuple[set[int], set[int]] = set(), set()
    for first, second in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            yield first, second


def _without(boxes: Detections, matched: Sequence[int]) -> list[float]:
    """Confidences of the boxes that have no counterpart."""
    alone: list[float] = np.delete(boxes.scores, list(matched)).tolist()
    return alone


def _vector_differences(
    stored: TutorOutput, again: TutorOutput
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Largest difference of an entry, and whether the class is another, per pixel (H, W).

    Looked up per pair of vectors.
    """
    codes = stored.index_map.astype(np.int64) * len(again.palette) + again.index_map
    present, position = np.unique(codes, return_inverse=True)
    first, second = np.divmod(present, len(again.palette))
    apart = np.abs(stored.palette[first] - again.palette[second]).max(axis=1)
    other = winners(stored.palette[first]) != winners(again.palette[second])
    shape = stored.index_map.shape
    return apart[position].reshape(shape), other[position].reshape(shape)


def _mask_difference(stored: InstanceMasks | None, again: InstanceMasks | None) -> float:
    if stored is None or again is None:
        return 0.0
    if not np.array_equal(stored.labels, again.labels):
        return 1.0
    steps = np.abs(stored.masks.astype(int) - again.masks).max(initial=0)
    return max(0, int(steps) - 1) / 255.0
