"""A dense tutor: what generation costs beside its network, and what rounding its answers does.

Run from the repository's root:

    python -m benchmarks.bench_dense --voc DEVKIT --tutor SPEC [--weights FILE] [--min-size N]
        [--images 24] [--beside STORE]

The first table is that of `benchmarks/bench_tutors.py`. The second codes the same answers with
more and fewer levels: bytes, distinct vectors, CPU time of coding and of reading an image's label
vectors; and against the answers as they were, enlarged: how far probabilities are off, how many
pixels change their class, mIoU and cross-entropy by the ground truth. --beside adds a store of the
same photographs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.bench_label_forms import label_bytes, read_seconds
from benchmarks.bench_tutors import MEANING, STAGES, run_stages, stage_row
from kdcli.cache.format.grid import spread, whole_window
from kdcli.cache.reader import TutorCache
from kdcli.cache.writer import CacheWriter
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutors
from kdcli.tutor_gen.tutors.tutor import Instances, SemanticOutput
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import VOID
from kdcli.voc.metrics.segmentation import ConfusionMatrix
from kdcli.voc.scan import scan_images

LEVELS = (8, 16, 32, 64, 128, 255)
LEAST = 1e-4
"""What smaller probabilities count as in a cross-entropy."""


def load(given: argparse.Namespace) -> TutorPair:
    return load_tutors(
        generation_config(
            detection__tutor="none",
            segmentation__tutor=given.tutor,
            segmentation__weights=given.weights or "",
            inference={"min_size": given.min_size} if given.min_size else {},
            runtime__device="cpu",
        )
    )


class Compared:
    """Enlarged answers beside those they were made of, and the ground truth."""

    def __init__(self) -> None:
        self.confusion = ConfusionMatrix()
        self.errors: list[float] = []
        self.changed: list[float] = []
        self.entropies: list[float] = []

    def add(self, pixels: np.ndarray, exact: np.ndarray, mask: np.ndarray | None) -> None:
        """Vectors of all pixels, rounded and not, (H, W, 21); and their classes, (H, W)."""
        classes = pixels.argmax(axis=2).astype(np.uint8)
        self.errors.append(float(np.abs(pixels - exact).mean()))
        self.changed.append(float((classes != exact.argmax(axis=2)).mean()))
        if mask is None:
            return
        self.confusion.update(classes, mask)
        known = mask != VOID
        right = np.take_along_axis(pixels, np.where(known, mask, 0)[..., None], axis=2)[..., 0]
        sums = pixels.sum(axis=2).clip(LEAST)
        self.entropies.append(float(-np.log((right / sums).clip(LEAST))[known].mean()))

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            f"{np.mean(self.errors):.1e}",
            f"{100 * np.mean(self.changed):.2f}",
            f"{100 * self.confusion.result().miou:.2f}",
            f"{np.mean(self.entropies):.4f}",
        )


def pixels_of(vectors: np.ndarray, window: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Vectors (h, w, 21) of cells, enlarged to the image."""
    return spread(vectors, whole_window(*vectors.shape[:2]) if window is None else window, *size)


def code(
    pair: TutorPair, devkit: Devkit, ids: Sequence[str], said: Sequence[SemanticOutput], out: Path
) -> float:
    """Write a store of the answers; CPU seconds of coding an image."""
    sizes = [devkit.read_image(image_id).shape[:2] for image_id in ids]
    answers = [(Instances.none(), each) for each in said]
    start = time.process_time()
    outputs = [
        pair.record(answer, image_id, *size)[0]
        for answer, image_id, size in zip(answers, ids, sizes, strict=True)
    ]
    seconds = time.process_time() - start
    entries = scan_images(devkit, ids)
    with CacheWriter.open(out, entries, pair.settings, {}, images_per_shard=len(ids)) as writer:
        (shard,) = writer.pending()
        writer.write(shard, outputs)
        writer.finish()
    return seconds / len(ids)


def compare(
    cache: TutorCache, devkit: Devkit, ids: Sequence[str], said: Sequence[SemanticOutput]
) -> Compared:
    compared = Compared()
    for image_id, each in zip(ids, said, strict=True):
        size = devkit.read_image(image_id).shape[:2]
        stored = cache[image_id]
        exact = pixels_of(each.probabilities.transpose(1, 2, 0), each.window, size)
        pixels = pixels_of(stored.label_vectors(), stored.window, size)
        compared.add(pixels, exact, devkit.mask(image_id))
    return compared


def level_rows(
    pair: TutorPair, devkit: Devkit, ids: Sequence[str], beside: Sequence[Path], folder: Path
) -> Iterator[Sequence[str]]:
    assert pair.segmentation is not None
    said = [pair.segmentation.predict([devkit.read_image(image_id)])[0] for image_id in ids]
    assert all(isinstance(each, SemanticOutput) for each in said), "this is no dense tutor"
    coding, caches = [], []
    for levels in LEVELS:
        form = replace(pair.config.label_vectors, levels=levels)
        rounded = replace(pair, config=replace(pair.config, label_vectors=form))
        coding.append(code(rounded, devkit, ids, said, folder / f"{levels}.zarr"))
        caches.append(TutorCache.open(folder / f"{levels}.zarr"))
    others = [TutorCache.open(path) for path in beside]
    reading = [1000 * seconds for seconds in read_seconds([*caches, *others], ids)]
    for levels, cache, seconds, read in zip(LEVELS, caches, coding, reading, strict=False):
        vectors = [len(cache.palette(image_id)) for image_id in ids]
        most = f"{np.median(vectors):.0f} ({max(vectors)})"
        size = f"{label_bytes(cache) / 1000:.1f}"
        row = (f"1/{levels}", size, most, f"{1000 * seconds:.1f}", f"{read:.2f}")
        yield (*row, *compare(cache, devkit, ids, said).cells)
    for cache, read in zip(others, reading[len(caches) :], strict=True):
        yield cache.path.name, f"{label_bytes(cache) / 1000:.1f}", "", "", f"{read:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--tutor", required=True, help="a dense one, as generate-tutors names it")
    parser.add_argument("--weights")
    parser.add_argument("--min-size", type=int)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="stores, to read, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    devkit, pair = Devkit.open(given.voc), load(given)
    listed = devkit.image_ids("Segmentation/val")
    ids = listed[:: max(1, len(listed) // given.images)][: given.images]
    with tempfile.TemporaryDirectory() as folder:
        clock = run_stages(devkit, ids, pair, Path(folder) / "stages.zarr", "cpu")
        print(f"Shares in % of a run's CPU time ({MEANING}).\n")
        print(f"| run | images | boxes each | ms each | {' | '.join(STAGES)} | all but network |")
        print("|---|--:|--:|--:|" + "--:|" * (len(STAGES) + 1))
        print(*stage_row(given.tutor, len(ids), clock, 0.03), sep="\n")
        print("\n| levels | kB | vectors (most) | coding, ms | reading, ms | off by | pixels of "
              "another class, % | mIoU % | cross-entropy |")  # fmt: skip
        print("|---|" + "--:|" * 8)
        for row in level_rows(pair, devkit, ids, given.beside, Path(folder)):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
