"""Stage 1: run the tutors over images and fill a tutor cache."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.environment import environment
from cache.record import FailedImage, ImageEntry, TutorOutput
from cache.track import Track, no_track
from cache.writer import CacheWriter
from tutor_gen.label_form import THESIS, LabelForm
from tutor_gen.pair import DETECTION_FLOOR, SEGMENTATION_FLOOR, TutorPair
from tutor_gen.scan import scan_images
from tutor_gen.tutor import Tutor
from voc.devkit import Devkit
from voc.errors import DevkitError

_Counts = dict[str, Counter[str]]


@dataclass(frozen=True)
class GenerationResult:
    """What one run did.

    Attributes:
        images: images labelled in this run.
        skipped: images that an earlier run had labelled.
        failed: reason by image id, of images that could not be read.
        dropped: instances that did not reach the cache, by role and reason, such as
            ``{"detection": {"class": 812, "floor": 40}}``; ``"clipped"`` ones did reach it.
        seconds: wall time of labelling and writing.
    """

    images: int
    skipped: int
    failed: Mapping[str, str]
    dropped: Mapping[str, Mapping[str, int]]
    seconds: float


def generate(
    devkit: Devkit,
    image_ids: Sequence[str],
    detection: Tutor | None,
    segmentation: Tutor | None,
    out: Path,
    *,
    floor: float = DETECTION_FLOOR,
    segmentation_floor: float = SEGMENTATION_FLOOR,
    keep_masks: bool = False,
    form: LabelForm = THESIS,
    images_per_shard: int = 64,
    track: Track = no_track,
) -> GenerationResult:
    """Label images with the tutors and store the result; go on where an earlier run ended.

    An image that cannot be read is recorded as failed and the run goes on. Interrupted at any
    moment, the same call later repeats at most one shard.

    Args:
        devkit: where the photographs lie.
        image_ids: which of them.
        detection: see `tutor_gen.pair.TutorPair`, as for the next one and the floors.
        segmentation: the other tutor.
        out: the cache's folder.
        floor: for boxes.
        segmentation_floor: for label vectors.
        keep_masks: whether the segmentation tutor's own masks are stored, too.
        form: what label vectors are made of.
        images_per_shard: images that are written, and after an interruption repeated, together.
        track: wraps the loop over images for a progress bar.

    Raises:
        TutorError: no tutor at all, or an output that cannot be true.
        DevkitError: a photograph is missing.
        CacheError: the cache at ``out`` was begun with other images or settings, or is in use.
    """
    pair = TutorPair(detection, segmentation, floor, segmentation_floor, keep_masks, form)
    entries = scan_images(devkit, image_ids)
    start = time.perf_counter()
    failed: dict[str, str] = {}
    dropped: _Counts = {}
    with CacheWriter.open(
        out, entries, pair.settings, environment(), images_per_shard=images_per_shard
    ) as writer:
        shards = writer.pending()
        todo = [entry for shard in shards for entry in shard.images]
        progress = iter(track(todo, len(todo), "tutors"))
        for shard in shards:
            outputs = [_label(devkit, next(progress), pair, dropped) for _ in shard.images]
            writer.write(shard, outputs)
            failed.update({o.image_id: o.reason for o in outputs if isinstance(o, FailedImage)})
        next(progress, None)  # lets the bar end
        writer.finish()
    return GenerationResult(
        images=len(todo) - len(failed),
        skipped=len(entries) - len(todo),
        failed=failed,
        dropped={role: dict(counts) for role, counts in dropped.items() if counts},
        seconds=time.perf_counter() - start,
    )


def _label(
    devkit: Devkit, entry: ImageEntry, pair: TutorPair, dropped: _Counts
) -> TutorOutput | FailedImage:
    """Read one image and let the tutors say what is in it."""
    try:
        image = devkit.read_image(entry.image_id)
    except DevkitError as error:
        return FailedImage(entry.image_id, str(error))
    if image.shape[:2] != (entry.height, entry.width):
        raise DevkitError(
            f"{devkit.image_path(entry.image_id)} changed while the tutors ran; start again"
        )
    output, lost = pair.label(image, entry.image_id)
    for role, counts in lost.items():
        dropped.setdefault(role, Counter()).update(counts)
    return output
