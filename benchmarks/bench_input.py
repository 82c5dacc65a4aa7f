"""The training input pipeline measured beside its bars: peers, the floor, its parts, workers.

Run from the repository's root (the extra ``bench`` installs albumentations):

    python -m benchmarks.bench_input [--voc DEVKIT] [--images 120] [--rounds 7] [--out FILE]

Times are CPU time of one process on one core, in ms a sample of 300 x 300. All contenders take
turns in one run, a batch each; the median over the rounds is shown, and of each round's ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.cache_data import SETTINGS, simulate
from benchmarks.input_peers import PEERS
from kdcli.cache.reader import TutorCache
from kdcli.cache.writer import CacheWriter
from kdcli.student.config.toml import config_from_table
from kdcli.student.data.augmentation import draw_crop, draw_transform
from kdcli.student.data.batch import collate
from kdcli.student.data.color_jitter import distort, draw_color_jitter
from kdcli.student.data.dataset import Draw, StudentDataset, make_loader
from kdcli.student.data.geometry import Transform, Window
from kdcli.student.data.targets import ImageTargets, terms_of
from kdcli.student.model.preprocessing import normalise
from kdcli.voc.devkit import Devkit
from kdcli.voc.jpeg import Photograph
from kdcli.voc.scan import scan_images
from kdcli.voc.scenes.dataset import make_sample

Row = tuple[str, str, str]
BATCH = 30
TARGETS = {
    "detection": {"source": "combination"},
    "segmentation": {"source": "combination"},
}


def make_dataset(folder: Path, voc: Path | None, images: int) -> StudentDataset:
    """Every image learns from its boxes, its mask, the tutors' boxes and their label map."""
    if voc is None:
        devkit = make_sample(folder / "voc", images=2 * images, seed=1)
    else:
        devkit = Devkit.open(voc)
    ids = devkit.image_ids("Segmentation/train")[:images]
    path = folder / "cache.zarr"
    entries = scan_images(devkit, ids)
    with CacheWriter.open(path, entries, SETTINGS | {"keep_masks": False}, {}) as writer:
        for shard in writer.pending():
            writer.write(shard, [output_of(devkit, entry.image_id) for entry in shard.images])
        writer.finish()
    config = config_from_table(
        {"model": {"preset": "blitznet300"}, "targets": TARGETS, "optim": {"batch_size": BATCH}},
        "the benchmark",
    )
    weights = dict.fromkeys(terms_of(config.model.tasks), 0.5)
    rows = [ImageTargets(image_id, weights) for image_id in ids]
    return StudentDataset(devkit, TutorCache.open(path), rows, config, "SegmentationClass")


def output_of(devkit: Devkit, image_id: str) -> object:
    annotation, mask = devkit.annotation(image_id), devkit.mask(image_id)
    assert annotation is not None
    assert mask is not None
    return replace(simulate(sum(image_id.encode()), annotation, mask), instances=None)


def in_turns(
    contenders: Mapping[str, Callable[[int], object]], count: int, rounds: int
) -> dict[str, np.ndarray]:
    """CPU ms a sample of each contender in each round; the first round warms up."""
    times = {name: np.zeros(rounds + 1) for name in contenders}
    for turn in range(rounds + 1):
        for first in range(0, count, BATCH):
            for name, contender in contenders.items():
                begun = time.process_time_ns()
                for index in range(first, min(first + BATCH, count)):
                    contender(index)
                times[name][turn] += (time.process_time_ns() - begun) / count / 1e6
    return {name: values[1:] for name, values in times.items()}


class Ours:
    """Batches of ever new epochs, as a worker of the loader prepares them."""

    def __init__(self, dataset: StudentDataset) -> None:
        self.dataset, self.draws, self.drawn = dataset, list[Draw](), 0

    def __call__(self, index: int) -> None:
        self.draws.append(Draw(self.drawn // len(self.dataset), index))
        self.drawn += 1
        if len(self.draws) == BATCH:
            collate(self.dataset.__getitems__(self.draws))
            self.draws = []


class Floor:
    """Read, decode whole, crop and resize to 300 x 300: what no pipeline can do without.

    The crops are drawn beforehand: of the whole image (nothing is zoomed out), by our policy.
    """

    def __init__(self, dataset: StudentDataset) -> None:
        rng, config = np.random.default_rng(0), dataset.config.augmentation
        self.paths = [dataset.devkit.image_path(row.image_id) for row in dataset.rows]
        self.crops, truth = [], dataset.readers["detection"].truth
        for path, row in zip(self.paths, dataset.rows, strict=True):
            photograph = Photograph.open(path)
            height, width = photograph.height, photograph.width
            canvas = Window(0.0, 0.0, float(width), float(height))
            window = draw_crop(rng, canvas, truth.of(row.image_id)[0], config)
            self.crops.append(Transform.fit(height, width, window, 300, reductions=(1,)))

    def __call__(self, index: int) -> None:
        self.crops[index].image(Photograph.open(self.paths[index]).decode())


def peer_rows(dataset: StudentDataset, rounds: int) -> Iterable[Row]:
    peers = {name: peer(dataset) for name, (_, peer) in PEERS.items() if peer is not None}
    contenders = {"ours": Ours(dataset), "floor": Floor(dataset), **peers}
    times = in_turns(contenders, len(dataset), rounds)
    ours, floor = times["ours"], times["floor"]
    yield "ours, tutor targets and collate included", "", f"{np.median(ours):.2f} ms"
    yield "floor: decode, crop, resize", "ours <= 1.6 x this", compared(floor, ours / floor)
    for name, (bar, _) in PEERS.items():
        shown = compared(times[name], times[name] / ours) if name in times else "not installed"
        yield name, bar, shown


def compared(times: np.ndarray, ratios: np.ndarray) -> str:
    spread = f"{np.median(ratios):.2f} x ({ratios.min():.2f} to {ratios.max():.2f})"
    return f"{np.median(times):.2f} ms; {spread}"


def part_rows(dataset: StudentDataset, rounds: int) -> Iterable[Row]:
    devkit, config = dataset.devkit, dataset.config.augmentation
    boxes, pixels = dataset.readers["detection"], dataset.readers["segmentation"]
    cache = boxes.cache
    ids = [row.image_id for row in dataset.rows]
    paths = [devkit.image_path(image_id) for image_id in ids]
    opened = [Photograph.open(path) for path in paths]
    truth = [boxes.truth.of(image_id)[0] for image_id in ids]
    both = [np.concatenate([truth[i], cache.boxes(ids[i]).boxes]) for i in range(len(ids))]
    maps = [cache.index_map(image_id) for image_id in ids]
    sizes = [(photograph.height, photograph.width) for photograph in opened]

    def draws(index: int) -> Transform:
        rng = np.random.default_rng([1, 1, index])
        draw_color_jitter(rng, config)
        return draw_transform(rng, *sizes[index], truth[index], 300, config)

    transforms = [draws(index) for index in range(len(ids))]
    images = [p.decode(t.reduction) for p, t in zip(opened, transforms, strict=True)]
    samples = [dataset[Draw(0, index)] for index in range(BATCH)]
    parts: dict[str, Callable[[int], object]] = {
        "read the file": lambda i: Photograph.open(paths[i]),
        "decode": lambda i: opened[i].decode(transforms[i].reduction),
        "crop, resize, pad, flip": lambda i: transforms[i].image(images[i]),
        "draw geometry and colours": draws,
        "read the mask, first time": lambda i: devkit.mask(ids[i], "SegmentationClass", sizes[i]),
        "read the mask, later": lambda i: pixels.masks.read(ids[i], sizes[i]),
        "read tutor's label map and vectors": lambda i: (
            cache.index_map(ids[i]),
            cache.palette(ids[i]),
        ),
        "transform mask and label map": lambda i: (
            transforms[i].map(maps[i], 38, 255),
            transforms[i].map(maps[i], 38, 0),
        ),
        "read tutor's boxes": lambda i: cache.boxes(ids[i]),
        "transform boxes": lambda i: transforms[i].boxes(both[i], 2.0),
        "collate": lambda i: collate(samples) if i % BATCH == 0 else None,
    }
    times = in_turns(parts, len(ids), rounds)
    for name, values in times.items():
        yield f"... {name}", "", f"{np.median(values):.3f} ms"
    reduced = np.mean([t.reduction > 1 for t in transforms])
    yield "... share decoded at half the size or less", "", f"{reduced:.0%}"


def device_row(dataset: StudentDataset) -> Row:
    batch = collate([dataset[Draw(0, index)] for index in range(BATCH)])
    rates = []
    for _ in range(3):
        begun = time.process_time()
        normalise(distort(batch.images, batch.jitter), dataset.config.model)
        rates.append((time.process_time() - begun) / BATCH * 1e3)
    return "left to the device (here the CPU): distort, normalise", "", f"{min(rates):.1f} ms"


def worker_row(dataset: StudentDataset, batches: int) -> Row:
    """Samples/s of wall time of one and of two workers, in turns, the better of two."""
    best = {1: 0.0, 2: 0.0}
    for _ in range(2):
        for workers in best:
            config = dataset.config
            dataset.config = replace(
                config,
                optim=replace(config.optim, steps=batches),
                runtime=replace(config.runtime, workers=workers),
            )
            loader = iter(make_loader(dataset, 0, torch.device("cpu")))
            for _ in range(2 * workers):  # the workers have started
                next(loader)
            begun = time.perf_counter()
            count = sum(1 for _ in loader)
            rate = BATCH * count / (time.perf_counter() - begun)
            best[workers] = max(best[workers], rate)
            dataset.config = config
    text = f"{best[2] / best[1]:.2f} x ({best[1]:.0f} to {best[2]:.0f} samples/s)"
    return "two workers instead of one, wall time", "", text


def measure(folder: Path, options: argparse.Namespace) -> Iterable[Row]:
    dataset = make_dataset(folder, options.voc, options.images)
    yield from peer_rows(dataset, options.rounds)
    yield from part_rows(dataset, options.rounds)
    yield device_row(dataset)
    yield worker_row(dataset, options.batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voc", type=Path, help="a devkit; without it, drawn scenes")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=30, help="of the workers")
    parser.add_argument("--out", type=Path, help="write the table here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = ["| what | bar | measured |", "|---|---|---|"]
    print(*lines, sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), options):
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
