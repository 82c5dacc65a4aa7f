"""Stage 1: run the tutors over images and fill a tutor cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.environment import environment
from cache.record import FailedImage, ImageEntry, TutorOutput
from cache.writer import CacheWriter
from tutor_gen.checks import check_instances
from tutor_gen.errors import TutorError
from tutor_gen.label_vectors import code_label_vectors
from tutor_gen.scan import scan_images
from tutor_gen.tutor import Instances, Tutor
from voc.classes import CLASSES, NUM_CLASSES
from voc.devkit import Devkit
from voc.errors import DevkitError

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]

DETECTION_FLOOR = 0.001
"""The thesis' threshold on tutor boxes."""
SEGMENTATION_FLOOR = 0.05
"""Detectron2's own default threshold: what its Mask R-CNNs are evaluated with."""


@dataclass(frozen=True)
class GenerationResult:
    """What one run did.

    Attributes:
        images: images labelled in this run.
        skipped: images that an earlier run had labelled.
        failed: reason by image id, of images that could not be read.
        dropped: instances that did not reach the cache, by role and reason, e.g.
            ``{"detection": {"class": 812, "floor": 40}}``; ``"clipped"`` ones did reach it.
        seconds: wall time of labelling and writing.
    """

    images: int
    skipped: int
    failed: Mapping[str, str]
    dropped: Mapping[str, Mapping[str, int]]
    seconds: float


@dataclass(frozen=True)
class _Tutors:
    """The tutors of a run with their floors, and what they dropped so far."""

    detection: Tutor | None
    segmentation: Tutor | None
    floor: float
    segmentation_floor: float
    dropped: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def one_for_both(self) -> bool:
        """Whether one run of one model serves both roles."""
        return (
            self.detection is not None
            and self.segmentation is not None
            and self.detection.description == self.segmentation.description
        )


def generate(
    devkit: Devkit,
    image_ids: Sequence[str],
    detection: Tutor | None,
    segmentation: Tutor | None,
    out: Path,
    *,
    floor: float = DETECTION_FLOOR,
    segmentation_floor: float = SEGMENTATION_FLOOR,
    images_per_shard: int = 64,
    track: Track = lambda items, total, label: items,
) -> GenerationResult:
    """Label images with the tutors and store the result; go on where an earlier run ended.

    An image that cannot be read is recorded as failed and the run goes on. Interrupted at any
    moment, the same call later repeats at most one shard.

    Args:
        devkit: where the photographs lie.
        image_ids: which of them.
        detection: gives the boxes; None leaves them empty.
        segmentation: gives the label vectors; None leaves them zero. If its description equals the
            detection tutor's, the model runs once for both.
        out: the cache's folder.
        floor: boxes of lower confidence are left out.
        segmentation_floor: instances of lower confidence leave no trace in the label vectors.
        images_per_shard: images that are written, and after an interruption repeated, together.
        track: wraps the loop over images for a progress bar.

    Raises:
        TutorError: no tutor at all, or an output that cannot be true.
        DevkitError: a photograph is missing.
        CacheError: the cache at ``out`` was begun with other images or settings, or is in use.
    """
    tutors = _Tutors(detection, segmentation, floor, segmentation_floor)
    entries = scan_images(devkit, image_ids)
    start = time.perf_counter()
    failed: dict[str, str] = {}
    done = 0
    with CacheWriter.open(
        out, entries, run_settings(tutors), environment(), images_per_shard=images_per_shard
    ) as writer:
        shards = writer.pending()
        todo = [entry for shard in shards for entry in shard.images]
        progress = iter(track(todo, len(todo), "tutors"))
        for shard in shards:
            outputs = [_label(devkit, next(progress), tutors) for _ in shard.images]
            writer.write(shard, outputs)
            failed.update({o.image_id: o.reason for o in outputs if isinstance(o, FailedImage)})
            done += len(outputs)
        next(progress, None)  # lets the bar end
        writer.finish()
    seconds = time.perf_counter() - start
    skipped = len(entries) - done
    dropped = {role: dict(counts) for role, counts in tutors.dropped.items()}
    return GenerationResult(done - len(failed), skipped, failed, dropped, seconds)


def run_settings(tutors: _Tutors) -> dict[str, Any]:
    """Everything that decides what a cache holds, for its provenance.

    Raises:
        TutorError: there is no tutor at all, or a floor is outside 0..1.
    """
    described = {"detection": tutors.detection, "segmentation": tutors.segmentation}
    if not any(described.values()):
        raise TutorError("both tutors are 'none': name at least one, there is nothing to store")
    for floor in (tutors.floor, tutors.segmentation_floor):
        if not 0 <= floor < 1:
            raise TutorError(f"expected a confidence floor from 0 to below 1, got {floor}")
    return {
        "class_names": list(CLASSES),
        **{role: tutor and dict(tutor.description) for role, tutor in described.items()},
        "detection_floor": tutors.floor,
        "segmentation_floor": tutors.segmentation_floor,
        "label_vectors": "hard masks times confidence, largest per class",
        "exif_orientation": "ignored",
    }


def _label(devkit: Devkit, entry: ImageEntry, tutors: _Tutors) -> TutorOutput | FailedImage:
    """Read one image and let the tutors say what is in it."""
    try:
        image = devkit.read_image(entry.image_id)
    except DevkitError as error:
        return FailedImage(entry.image_id, str(error))
    if image.shape[:2] != (entry.height, entry.width):
        raise DevkitError(
            f"{devkit.image_path(entry.image_id)} changed while the tutors ran; start again"
        )
    return label_image(image, entry.image_id, tutors)


def label_image(image: NDArray[np.uint8], image_id: str, tutors: _Tutors) -> TutorOutput:
    """Let the tutors label one (H, W, 3) uint8 RGB image, check and code what they say."""
    height, width = image.shape[:2]
    detected = segmented = _nothing()
    if tutors.detection is not None:
        (found,) = tutors.detection.predict([image])
        detected = check_instances(found, image_id, height, width)
    if tutors.one_for_both:
        segmented = detected
    elif tutors.segmentation is not None:
        (found,) = tutors.segmentation.predict([image])
        segmented = check_instances(found, image_id, height, width)
    detected = _above(detected, tutors.floor)
    segmented = _above(segmented, tutors.segmentation_floor)
    _count(tutors, detected, segmented)
    label_map, palette = _code(segmented, height, width)
    return TutorOutput(
        image_id=image_id,
        boxes=detected.boxes,
        labels=detected.labels,
        confidences=detected.confidences,
        label_map=label_map,
        palette=palette,
    )


def _code(found: Instances, height: int, width: int) -> tuple[Any, NDArray[np.float32]]:
    if found.masks is None:
        empty = np.zeros((height, width), dtype=np.uint8)
        return empty, np.zeros((1, NUM_CLASSES), dtype=np.float32)
    return code_label_vectors(
        found.masks, found.labels, found.confidences, height, width, found.boxes
    )


def _above(found: Instances, floor: float) -> Instances:
    return found.select(found.confidences >= floor, "floor")


def _count(tutors: _Tutors, detected: Instances, segmented: Instances) -> None:
    for role, found in (("detection", detected), ("segmentation", segmented)):
        tutors.dropped.setdefault(role, Counter()).update(found.dropped)


def _nothing() -> Instances:
    return Instances(
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.uint8),
        confidences=np.zeros(0, dtype=np.float32),
    )
