"""Forms of label vectors beside the default one: size, distinct vectors, coding and reading time.

Run from the repository's root:

    python -m benchmarks.bench_label_forms --voc DEVKIT [--images 24] [--floor 0.05]
        [--tutor CONFIG --weights FILE]

Times are CPU time of one process; the stores of all forms are read in turns. The sample tutor was
trained on drawn scenes: on photographs it finds many doubtful objects that overlap, so its numbers
bound those of a trained one from above. A panoptic tutor is measured in its own forms.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.cache.writer import CacheWriter
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.labels.coding import code_instances
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images

FORMS = (
    LabelForm(),
    LabelForm(background="rest"),
    LabelForm(background="complement"),
    LabelForm(classes="full"),
    LabelForm("soft", levels=16),
    LabelForm("soft", levels=32),
    LabelForm("soft", levels=64),
    LabelForm("soft", "full", "complement", levels=32),
)
PANOPTIC_FORMS = (*(LabelForm(levels=n) for n in (16, 32, 64)), LabelForm("soft", levels=32))
ROUNDS = 5


def found_in(devkit: Devkit, ids: Sequence[str], given: argparse.Namespace) -> dict[str, list]:
    """What the tutor finds in each image, by form of masks."""
    found = {}
    for masks in ("hard", "soft"):
        full = LabelForm(masks, "top" if given.tutor != "sample" else "full")
        tutor = load_tutor(
            given.tutor,
            "segmentation",
            weights=given.weights,
            config=generation_config(segmentation__score_threshold=given.floor, label_vectors=full),
        )
        found[masks] = [tutor.predict([devkit.read_image(i)])[0] for i in ids]
    return found


def write(
    out: Path, devkit: Devkit, ids: Sequence[str], found: Sequence[Instances], form: LabelForm
) -> float:
    """Write a store of label vectors alone; CPU seconds of coding an image."""
    entries = scan_images(devkit, ids)
    settings = {"class_names": list(CLASSES), "detection": None, "segmentation": {"name": "any"}}
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.float32)
    start = time.process_time()
    coded = [
        code_instances(said, form, entry.height, entry.width)
        for said, entry in zip(found, entries, strict=True)
    ]
    seconds = time.process_time() - start
    with CacheWriter.open(out, entries, settings, {}, images_per_shard=len(ids)) as writer:
        (shard,) = writer.pending()
        writer.write(
            shard, [TutorOutput(i, *none, *each) for i, each in zip(ids, coded, strict=True)]
        )
        writer.finish()
    return seconds / len(ids)


def label_bytes(cache: TutorCache) -> float:
    arrays = ("label_map/", "label_map_high/", "palette/")
    return sum(n for name, n in cache.files.items() if name.startswith(arrays)) / len(cache)


def read_seconds(caches: Sequence[TutorCache], ids: Sequence[str]) -> list[float]:
    """Median CPU seconds of reading an image's label vectors, the stores taking turns."""
    times: list[list[float]] = [[] for _ in caches]
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for image_id in ids:
            # Shuffled: who reads after a large palette finds the processor's caches cold.
            for turn in rng.permutation(len(caches)):
                cache, own = caches[turn], times[turn]
                start = time.process_time()
                cache.index_map(image_id)
                cache.palette(image_id)
                own.append(time.process_time() - start)
    return [float(np.median(own)) for own in times]


def measure(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    devkit = Devkit.open(given.voc)
    listed = devkit.image_ids("Segmentation/val")
    ids = listed[:: max(1, len(listed) // given.images)][: given.images]
    found = found_in(devkit, ids, given)
    panoptic = found["hard"][0].panoptic is not None
    forms = PANOPTIC_FORMS if panoptic else FORMS
    coding, caches = [], []
    for number, form in enumerate(forms):
        out = folder / f"{number}.zarr"
        coding.append(write(out, devkit, ids, found[form.masks], form))
        caches.append(TutorCache.open(out))
    reading = read_seconds(caches, ids)
    for form, cache, code, read in zip(forms, caches, coding, reading, strict=True):
        vectors = [len(cache.palette(image_id)) for image_id in ids]
        rounded = panoptic or form.masks == "soft"
        words = (form.masks, *(("panoptic",) if panoptic else (form.classes, form.background)))
        yield (
            " ".join(words) + (f" 1/{form.levels}" if rounded else ""),
            f"{label_bytes(cache) / 1000:.1f} kB",
            f"{np.median(vectors):.0f} ({max(vectors)})",
            f"{1000 * code:.1f} ms",
            f"{1000 * read:.2f} ms ({read / reading[0]:.1f} x)",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--floor", type=float, default=0.05)
    parser.add_argument("--tutor", default="sample")
    parser.add_argument("--weights")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| form | bytes an image | distinct vectors (most) | coding | reading |")
    print("|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), given):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
