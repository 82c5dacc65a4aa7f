"""The tutor cache measured beside its bars: size, reading, writing, opening, workers, cold disk.

Run from the repository's root:

    python -m benchmarks.bench_cache [--voc DEVKIT] [--images 300] [--large 120000 1000000]
        [--out FILE]

Times are CPU time of one process. Ratios compare readers that took turns in one run.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import zarr

from benchmarks.cache_data import SETTINGS, simulated_outputs
from kdcli.cache.format.record import TutorOutput
from kdcli.cache.format.root import read_root
from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import summarise
from kdcli.cache.writer import CacheWriter
from kdcli.cache.writing.part import encode_image
from kdcli.cache.writing.shard import commit_shard
from kdcli.common.images import ImageEntry

DENSE_IMAGES = 20
"""Images that are also written as dense float32, 15 MB each."""

Row = tuple[str, str, str]


def entry_of(output: TutorOutput, image_id: str | None = None) -> ImageEntry:
    name = image_id or output.image_id
    digest = hashlib.sha256(name.encode()).hexdigest()
    return ImageEntry(name, output.height, output.width, digest)


def without_masks(output: TutorOutput) -> TutorOutput:
    return TutorOutput(
        output.image_id,
        output.boxes,
        output.labels,
        output.scores,
        output.index_map,
        output.palette,
    )


def write(path: Path, outputs: Sequence[TutorOutput], keep_masks: bool) -> tuple[float, float]:
    """Write a cache; CPU and wall seconds an image."""
    by_id = {output.image_id: output for output in outputs}
    wall, cpu = time.perf_counter(), time.process_time()
    settings = SETTINGS | {"keep_masks": keep_masks}
    with CacheWriter.open(path, [entry_of(output) for output in outputs], settings, {}) as writer:
        for shard in writer.pending():
            writer.write(shard, [by_id[entry.image_id] for entry in shard.images])
        writer.finish()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / len(outputs), wall / len(outputs)


def cpu_ms(read: Callable[[str], object], ids: Iterable[str]) -> list[float]:
    times = []
    for image_id in ids:
        begun = time.process_time_ns()
        read(image_id)
        times.append((time.process_time_ns() - begun) / 1e6)
    return times


def zarr_reader(path: Path) -> Callable[[str], object]:
    """The same store through zarr-python, its offsets in memory."""
    group = zarr.open_group(path, mode="r")
    ids = group["image_ids"][:].tobytes().decode().split("\n")
    sizes, positions = group["image_size"][:].tolist(), {name: i for i, name in enumerate(ids)}
    ends, bounds = group["detections/offsets"][:], group["palette/offsets"][:]
    names = ("detections/boxes", "detections/labels", "detections/confidences", "palette/vectors")
    boxes, labels, scores, vectors = (group[name] for name in names)
    maps = group["label_map"]

    def read(image_id: str) -> object:
        i = positions[image_id]
        height, width = sizes[i]
        rows = slice(ends[i], ends[i + 1])
        index_map = maps[i, : height * width].reshape(height, width)
        palette = vectors[bounds[i] : bounds[i + 1]]
        return boxes[rows], labels[rows], scores[rows], index_map, palette

    return read


def read_rows(folder: Path, outputs: Sequence[TutorOutput], rounds: int) -> Iterable[Row]:
    """One random image, warm: ours, zarr-python, dense .npy; in turns, median CPU time."""
    cache = TutorCache.open(folder / "plain.zarr")
    dense = [output.image_id for output in outputs[:DENSE_IMAGES]]
    for output in outputs[:DENSE_IMAGES]:
        np.save(folder / f"{output.image_id}.npy", output.label_vectors())
    readers: dict[str, Callable[[str], object]] = {
        "ours": cache.__getitem__,
        "zarr": zarr_reader(folder / "plain.zarr"),
        "dense": lambda image_id: np.load(folder / f"{image_id}.npy"),
    }
    rng, times = np.random.default_rng(0), {name: list[float]() for name in readers}
    for _ in range(rounds):
        ids = [cache.image_ids[i] for i in rng.integers(0, len(cache), 100)]
        times["ours"] += cpu_ms(readers["ours"], ids)
        times["zarr"] += cpu_ms(readers["zarr"], ids[:20])
        times["dense"] += cpu_ms(readers["dense"], rng.choice(dense, 10).tolist())
    ours, by_zarr, by_npy = (float(np.median(times[name])) for name in readers)
    tail = float(np.percentile(times["ours"], 99))
    yield "read one random image, warm", "<= 0.25 ms", f"{ours:.3f} ms (99th percentile {tail:.3f})"
    yield "... against zarr-python", ">= 10 x", f"{by_zarr / ours:.0f} x ({by_zarr:.2f} ms)"
    yield "... against np.load, dense", ">= 20 x", f"{by_npy / ours:.0f} x ({by_npy:.2f} ms)"
    masks = TutorCache.open(folder / "masks.zarr")
    ids = [masks.image_ids[i] for i in rng.integers(0, len(masks), 100 * rounds)]
    with_masks = float(np.median(cpu_ms(masks.__getitem__, ids)))
    yield "... with the instances' masks", "", f"{with_masks:.3f} ms"
    path = float(np.mean(cpu_ms(lambda _: [label_path(cache, i) for i in ids[:32]], range(rounds))))
    yield "label path: read, crop, flip, resize to 75 and 300", "<= 0.4 ms", f"{path / 32:.3f} ms"


def label_path(cache: TutorCache, image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """What a training sample needs of the label map: a mirrored crop at two sizes, nearest."""
    index_map = cache.index_map(image_id)
    cache.boxes(image_id)
    height, width = index_map.shape
    crop = index_map[height // 8 : height - height // 8, width // 8 : width - width // 8]
    large = crop.take(np.arange(300) * crop.shape[0] // 300, axis=0)
    large = large.take((np.arange(300) * crop.shape[1] // 300)[::-1], axis=1)
    return large[2::4, 2::4], large


class LabelPath:
    """A map-style data set for torch's DataLoader."""

    def __init__(self, cache: TutorCache, repeat: int) -> None:
        self.cache = cache
        self.ids = list(cache.image_ids) * repeat

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return label_path(self.cache, self.ids[index])


def worker_rows(folder: Path, rounds: int) -> Iterable[Row]:
    from torch.utils.data import DataLoader

    cache = TutorCache.open(folder / "plain.zarr")
    data = LabelPath(cache, max(1, 1000 * rounds // len(cache)))

    def rate(workers: int, method: str) -> float:
        loader = DataLoader(
            data, batch_size=32, num_workers=workers, multiprocessing_context=method
        )
        batches = iter(loader)
        for _ in range(20):  # the workers have started
            next(batches)
        begun = time.perf_counter()
        count = sum(1 for _ in batches)
        return 32 * count / (time.perf_counter() - begun)

    for method in ("fork", "spawn"):
        tries = range(min(rounds, 3))
        one, two = (max(rate(workers, method) for _ in tries) for workers in (1, 2))
        text = f"{two / one:.2f} x ({one:.0f} to {two:.0f} images/s)"
        yield f"two {method}ed workers", ">= 1.5 x one", text


def size_rows(folder: Path, outputs: Sequence[TutorOutput]) -> Iterable[Row]:
    summary = summarise(TutorCache.open(folder / "plain.zarr"))
    masks = summarise(TutorCache.open(folder / "masks.zarr"))
    dense = float(np.mean([o.height * o.width * 21 * 4 for o in outputs]))
    size = summary.bytes_per_image
    yield "size, label vectors and boxes", "<= 6 kB an image", f"{size / 1e3:.2f} kB"
    yield "... with the instances' masks", "", f"{masks.bytes_per_image / 1e3:.2f} kB"
    yield "... the thesis' way", "", f"{dense / 1e6:.2f} MB, {dense / size:,.0f} x"


def write_large(path: Path, outputs: Sequence[TutorOutput], images: int) -> None:
    """A cache of many images, the same few over and over, coded once."""
    entries = [entry_of(outputs[i % len(outputs)], f"i{i:07d}") for i in range(images)]
    with CacheWriter.open(path, entries, SETTINGS, {}) as writer:
        root = writer._root
        chunk = root.label_specs[0].chunk[1]
        tables = root.tables
        coded = [encode_image(o, chunk, tables, o.index_map.size) for o in outputs]
        for shard in writer.pending():
            first = shard.index * root.images_per_shard
            numbers = range(first, first + len(shard.images))
            part = commit_shard(path, root, shard.index, [coded[i % len(coded)] for i in numbers])
            writer._done[shard.index] = frozenset(part.reasons)
        writer.finish()


def leave_out_lookup(path: Path) -> None:
    """Make a store (whose files may be links) one as earlier versions wrote it."""
    root = read_root(path)
    left = {name: entry for name, entry in root.files.items() if not name.startswith("lookup/")}
    replace(root, features=root.features - {"lookup"}, files=left).write(path)


OPEN = """
import sys, time
from kdcli.cache.reader import TutorCache
def private():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024
before, begun, cpu = private(), time.perf_counter(), time.process_time()
cache = TutorCache.open(sys.argv[1])
print((time.process_time() - cpu) * 1e3, (time.perf_counter() - begun) * 1e3, private() - before)
"""

COLD = """
import sys, numpy as np
from kdcli.cache.reader import TutorCache
def moved():
    return int(open("/proc/self/io").read().split("read_bytes: ")[1].split()[0])
cache = TutorCache.open(sys.argv[1])
ids = [cache.image_ids[i] for i in np.random.default_rng(0).integers(0, len(cache), 1000)]
before = moved()
for image_id in ids: cache[image_id]
print((moved() - before) / 1000)
"""


def in_new_process(program: str, path: Path) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    return [float(value) for value in done.stdout.split()]


def forget(path: Path) -> None:
    """Drop a cache's files from the page cache."""
    for file in (p for p in path.rglob("*") if p.is_file()):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def large_rows(
    folder: Path, outputs: Sequence[TutorOutput], images: int, rounds: int
) -> Iterable[Row]:
    path = folder / "large.zarr"
    write_large(path, outputs, images)
    opened = [in_new_process(OPEN, path) for _ in range(min(rounds, 7))]
    cpu, wall, memory = (float(np.median(values)) for values in zip(*opened, strict=True))
    yield f"opening {images:,} images", "<= 60 ms", f"{cpu:.0f} ms CPU ({wall:.0f} ms wall)"
    yield "... private memory", "<= 40 MB", f"{memory:.0f} MB"
    shutil.copytree(path, earlier := folder / "earlier.zarr", copy_function=os.link)
    leave_out_lookup(earlier)
    opened = [in_new_process(OPEN, earlier) for _ in range(min(rounds, 3))]
    cpu, _, memory = (float(np.median(values)) for values in zip(*opened, strict=True))
    yield "... without a lookup", "", f"{cpu:.0f} ms CPU, {memory:.0f} MB"
    forget(path)
    (moved,) = in_new_process(COLD, path)
    yield "cold reads of 1,000 random images", "<= 30 kB each", f"{moved / 1e3:.1f} kB"
    shutil.rmtree(path)
    shutil.rmtree(earlier)


def measure(folder: Path, given: argparse.Namespace) -> Iterable[Row]:
    outputs = list(simulated_outputs(given.voc, given.images))
    plain = [without_masks(output) for output in outputs]
    cpu, wall = write(folder / "plain.zarr", plain, keep_masks=False)
    write(folder / "masks.zarr", outputs, keep_masks=True)
    yield from size_rows(folder, outputs)
    yield from read_rows(folder, outputs, given.rounds)
    text = f"{1 / cpu:.0f} images/s of CPU ({1 / wall:.0f} with the disk's syncs)"
    yield "writing, one core", ">= 200 images/s", text
    yield from worker_rows(folder, given.rounds)
    for images in filter(None, given.large):
        yield from large_rows(folder, plain, images, given.rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voc", type=Path, help="a devkit; without it, drawn scenes")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument(
        "--large", type=int, nargs="*", default=[120_000], help="stores of so many images; 0: none"
    )
    parser.add_argument("--rounds", type=int, default=20, help="of 100 reads; less for a trial")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    lines = ["| what | bar | measured |", "|---|---|---|"]
    print(*lines, sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), options):
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(itertools.chain(lines, [""])))


if __name__ == "__main__":
    main()
