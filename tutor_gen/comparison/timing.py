"""How long tutors take for an image, measured here and now: stores of any machine compare."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from kdcli.common.errors import KdcliError
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.comparison.compare import Comparison
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.reload import load_again, named_in_provenance
from kdcli.voc.devkit import Devkit


def seconds_per_image(
    pair: TutorPair, devkit: Devkit, image_ids: Sequence[str], progress: Progress = no_progress
) -> float:
    """Return the median wall time of labelling one image: networks, checks, label vectors.

    Reading the photograph is left out; so is the first image, which warms up, if there are others.
    """
    seconds = []
    for image_id in progress(image_ids, len(image_ids), "time"):
        image = devkit.read_image(image_id)
        start = time.perf_counter()
        pair.label(image, image_id)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:] or seconds)


def with_seconds(
    found: Comparison,
    devkit: Devkit,
    image_ids: Sequence[str],
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Comparison:
    """Load the tutors of each store again and time them on the same images, one after another.

    A store keeps its ``seconds`` of None if its tutors cannot be loaded here: they are a program's
    own, or files that lie elsewhere now or have changed.
    """
    stores = []
    for store in found.stores:
        try:
            pair = load_again(store.cache, *named_in_provenance(store.cache), device, devkit.labels)
        except KdcliError:
            stores.append(store)
            continue
        seconds = seconds_per_image(pair, devkit, image_ids, progress)
        stores.append(replace(store, seconds=seconds))
    return replace(found, stores=tuple(stores))
