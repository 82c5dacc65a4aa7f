"""Where an image's time goes when tutors label it: read, resize, network, paste, code, write.

Run from the repository's root:

    python -m benchmarks.bench_tutors [--voc DEVKIT] [--torchscript FILE] [--out FILE]

Shares are of one run in one process that does one thing after another: of its CPU time, or with
--device cuda of wall time, the GPU waited for after every step. There, pairs of R101-FPN follow
through the real pipeline: images a second, and the share of the time that the networks do not take.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kdcli.cache.writer import CacheWriter
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2 import tutor as detectron2_tutor
from kdcli.tutor_gen.detectron2.door import GeneralizedRCNN
from kdcli.tutor_gen.exported.tutor import ExportedTutor
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutors
from kdcli.tutor_gen.tutors.preparation import prepare
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images
from kdcli.voc.scenes.dataset import draw_scene

SEED = 7_500_000
"""The sample tutors were trained on scenes of other seeds."""
STAGES = ("scan", "decode", "resize", "network", "paste", "code", "write")
MEANING = "scan: size and digest; paste: masks into the image, results to the host"


@dataclass
class Clock:
    """Time by stage, without that of stages inside; CPU time, or wall time behind a GPU."""

    device: str
    spent: dict[str, float] = field(default_factory=dict)
    inside: list[float] = field(default_factory=lambda: [0.0])
    boxes: int = 0

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.inside.append(0.0)
        begun = self.now()
        yield
        whole = self.now() - begun
        self.spent[name] = self.spent.get(name, 0.0) + whole - self.inside.pop()
        self.inside[-1] += whole


@contextlib.contextmanager
def timed(clock: Clock, stage: str, owner: Any, name: str) -> Iterator[None]:
    """Time every call of ``owner.name`` as a stage."""
    kept = owner.__dict__[name]
    function = kept.__func__ if isinstance(kept, staticmethod) else kept

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with clock.stage(stage):
            return function(*args, **kwargs)

    setattr(owner, name, staticmethod(wrapper) if isinstance(kept, staticmethod) else wrapper)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@contextlib.contextmanager
def pasting_timed(clock: Clock) -> Iterator[None]:
    """Time what comes after the networks, wherever it happens."""
    with contextlib.ExitStack() as stack:
        for owner, name in (
            (GeneralizedRCNN, "_postprocess"),
            (detectron2_tutor, "postprocess"),
            (detectron2_tutor.Detectron2Tutor, "_as_instances"),
            (ExportedTutor, "_as_instances"),
        ):
            stack.enter_context(timed(clock, "paste", owner, name))
        yield


def run_stages(
    devkit: Devkit, ids: Sequence[str], pair: TutorPair, out: Path, device: str
) -> Clock:
    """Label images one after another; where the time went."""
    pair.label(devkit.read_image(ids[0]), ids[0])  # a first image takes longer
    clock = Clock(device)
    with clock.stage("scan"):
        entries = scan_images(devkit, ids)
    with pasting_timed(clock), CacheWriter.open(out, entries, pair.settings, {}) as writer:
        for shard in writer.pending():
            outputs = []
            for entry in shard.images:
                with clock.stage("decode"):
                    image = devkit.read_image(entry.image_id)
                    sha256_file(devkit.image_path(entry.image_id))  # is it still the one listed?
                with clock.stage("resize"):
                    views = prepare(pair.preparations, image)
                with clock.stage("network"):
                    (answer,) = pair.ask([views])
                with clock.stage("code"):
                    outputs.append(pair.record(answer, entry.image_id, *image.shape[:2])[0])
                clock.boxes += len(outputs[-1].boxes)
            with clock.stage("write"):
                writer.write(shard, outputs)
        with clock.stage("write"):
            writer.finish()
    return clock


def stage_row(name: str, images: int, clock: Clock, bar: float | None) -> Iterable[str]:
    """The table's lines of one run."""
    total = sum(clock.spent.values())
    share = {stage: 100 * clock.spent.get(stage, 0.0) / total for stage in STAGES}
    beside = 100 - share["network"]
    cells = " | ".join(f"{share[stage]:.2f}" for stage in STAGES)
    stated = "" if bar is None else f" (bar: < {100 * bar:.0f})"
    each = f"{clock.boxes / images:.0f} | {1e3 * total / images:.1f}"
    yield f"| {name} | {images} | {each} | {cells} | {beside:.2f}{stated} |"


def write_devkit(root: Path, scenes: int, size: tuple[int, int] | None) -> Devkit:
    """Drawn scenes as photographs, of their own size or of (width, height)."""
    folder = root / "JPEGImages"
    folder.mkdir(parents=True)
    for index in range(scenes):
        picture = Image.fromarray(draw_scene(SEED, index).image)
        picture = picture.resize(size, Image.Resampling.BICUBIC) if size else picture
        picture.save(folder / f"scene_{index:03d}.jpg", quality=90)
    return Devkit(root)


def ids_of(devkit: Devkit, images: int) -> list[str]:
    """So many photographs, evenly spread."""
    names = sorted(path.stem for path in (devkit.root / "JPEGImages").glob("*.jpg"))
    chosen = np.linspace(0, len(names) - 1, min(images, len(names))).round().astype(int)
    return [names[i] for i in chosen]


def cases(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[str], Any, Any]]:
    """Name, image ids, devkit and pair of each run of `run_stages`."""

    def load(detection: str, segmentation: str, **settings: Any) -> TutorPair:
        return load_tutors(
            generation_config(
                detection__tutor=detection,
                segmentation__tutor=segmentation,
                runtime__device=arguments.device,
                **settings,
            )
        )

    scenes = write_devkit(folder / "scenes", arguments.scenes, None)
    sample = load("sample", "sample")
    yield "sample tutors, drawn scenes", ids_of(scenes, arguments.scenes), scenes, sample
    large = arguments.devkit or write_devkit(folder / "large", arguments.images, (500, 375))
    name, side = "mask_rcnn_R_50_FPN_3x", arguments.min_size
    pair = load(
        name,
        name,
        detection__weights="random:1",
        segmentation__weights="random:1",
        # Random weights are sure of nothing: only so are there masks to paste and to code.
        segmentation__score_threshold=0.001,
        inference__min_size=side,
    )
    yield f"Mask R-CNN R50-FPN for both, {side} px", ids_of(large, arguments.images), large, pair
    if arguments.torchscript and arguments.devkit:
        export = str(arguments.torchscript)
        pair = load(export, "none")
        yield "TorchScript export, photographs", ids_of(large, 200), large, pair


def gpu_rows(arguments: argparse.Namespace, folder: Path) -> Iterable[str]:
    """The real pipeline on a GPU with a pair of R101-FPN."""
    devkit = arguments.devkit or write_devkit(folder / "gpu", 128, (500, 375))
    ids = ids_of(devkit, arguments.gpu_images)
    yield "\n| R101-FPN pair, real pipeline | images/s | time outside the networks, % (bar: < 10) |"
    yield "|---|--:|--:|"
    for amp, batch in (("none", 1), ("none", 8), ("fp16", 1), ("fp16", 8)):
        tutors = load_tutors(
            generation_config(
                detection__tutor="faster_rcnn_R_101_FPN_3x",
                segmentation__tutor="mask_rcnn_R_101_FPN_3x",
                detection__weights="random:1",
                segmentation__weights="random:2",
                segmentation__score_threshold=0.001,
                runtime__device=arguments.device,
                inference__amp=amp,
                runtime__workers=arguments.workers,
                runtime__batch_size=batch,
            )
        )
        clock = Clock(arguments.device)

        def run(out: str, tutors: TutorPair = tutors) -> float:
            return generate(devkit, ids, tutors, folder / out).seconds

        name = f"{'float32' if amp == 'none' else amp}, batch {batch}"
        run(f"warm {name}")
        with timed(clock, "network", TutorPair, "ask"), pasting_timed(clock):
            seconds = run(name)
        beside = 100 * (1 - clock.spent["network"] / seconds)
        yield f"| {name} | {len(ids) / seconds:.1f} | {beside:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voc", type=Path, help="photographs instead of enlarged scenes")
    parser.add_argument("--torchscript", type=Path, help="a real detector, with its sidecar")
    parser.add_argument("--images", type=int, default=4, help="through R50-FPN (5 s each on a CPU)")
    parser.add_argument("--min-size", type=int, default=800, help="of R50-FPN's images")
    parser.add_argument("--scenes", type=int, default=96, help="through the sample tutors")
    parser.add_argument("--gpu-images", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=8, help="for the pipeline on a GPU")
    parser.add_argument("--out", type=Path, help="write the tables there, too")
    arguments = parser.parse_args()
    arguments.devkit = Devkit.open(arguments.voc) if arguments.voc else None
    bar = 0.03 if arguments.device == "cpu" else 0.10
    torch.set_num_threads(1 if arguments.device == "cpu" else torch.get_num_threads())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = Printed(print)
        lines.extend(
            [
                f"Shares in % of a run's time ({MEANING}).\n",
                f"| run | images | boxes each | ms each | {' | '.join(STAGES)} | all but network |",
                "|---|--:|--:|--:|" + "--:|" * (len(STAGES) + 1),
            ]
        )
        for number, (title, ids, devkit, pair) in enumerate(cases(arguments, folder)):
            clock = run_stages(devkit, ids, pair, folder / f"{number}.zarr", arguments.device)
            lines.extend(stage_row(title, len(ids), clock, bar if "R50" in title else None))
        if arguments.device != "cpu":
            lines.extend(gpu_rows(arguments, folder))
    if arguments.out:
        arguments.out.write_text("\n".join(lines.lines) + "\n")


@dataclass
class Printed:
    """Lines that are shown as they come, and kept."""

    show: Callable[[str], None]
    lines: list[str] = field(default_factory=list)

    def extend(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.show(line)
            self.lines.append(line)


if __name__ == "__main__":
    main()
