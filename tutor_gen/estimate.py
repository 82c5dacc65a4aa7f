"""What a generation run will take, from a few images that the tutors really label."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.writing.survey import expected_bytes, images_to_do
from kdcli.common.errors import DevkitError
from kdcli.common.images import ImageEntry
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images

SAMPLED = 4


@dataclass(frozen=True)
class Estimate:
    """What a run would do.

    Attributes:
        images: images it would label.
        skipped: images that an earlier run labelled.
        sampled: images that were labelled to tell the rest.
        seconds_per_image: median time of reading and labelling one.
        seconds: expected wall time.
        bytes_total: expected size of the complete cache, earlier images included.
    """

    images: int
    skipped: int
    sampled: int
    seconds_per_image: float
    seconds: float
    bytes_total: int


def estimate(
    devkit: Devkit,
    image_ids: Sequence[str],
    pair: TutorPair,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> Estimate:
    """Say what `tutor_gen.generate.generate` would do; write nothing.

    Up to `SAMPLED` images, evenly spread over those to label, go through the tutors; the first of
    them once before, as a first image takes longer.

    Raises:
        TutorError: an output cannot be true.
        DevkitError: a photograph is missing.
        CacheError: the run would be refused at ``out``.
    """
    entries = scan_images(devkit, image_ids)
    todo = images_to_do(out, entries, pair.settings)
    readable = [entry for entry in todo if entry.height > 0]
    spread = np.linspace(0, len(readable) - 1, min(SAMPLED, len(readable))).round().astype(int)
    chosen = [readable[i] for i in spread]
    outputs, times = [], []
    for entry in progress([*chosen[:1], *chosen], len(chosen) + 1, "tutors"):
        started = time.perf_counter()
        output = _label(devkit, entry, pair)
        times.append(time.perf_counter() - started)
        outputs.append(output)
    labelled = [output for output in outputs[1:] if output is not None]
    each = statistics.median(times[1:]) if labelled else 0.0
    size = (
        expected_bytes(labelled, entries, pair.config.runtime.images_per_shard) if labelled else 0
    )
    return Estimate(
        len(todo), len(entries) - len(todo), len(labelled), each, each * len(todo), size
    )


def _label(devkit: Devkit, entry: ImageEntry, pair: TutorPair) -> TutorOutput | None:
    """What the tutors say, or None if the photograph cannot be read: the run records that."""
    try:
        image = devkit.read_image(entry.image_id)
    except DevkitError:
        return None
    return pair.label(image, entry.image_id)[0]
