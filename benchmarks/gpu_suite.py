"""All that a student costs on a GPU, each number beside its floor and its bar, in a few minutes.

Run from the repository's root; nothing is fetched, and without a devkit scenes are drawn:

    python -m benchmarks.gpu_suite [--seconds 240] [--out DIR] [--voc DEVKIT --list NAME]

First it is checked that what is fast computes the same; a row whose check failed is wrong, however
fast. Then the rows are measured in the order of their worth until the seconds are used up; what did
not fit is named. The floor of a row is what the device's matrix product and copy, measured in the
same run, leave for its operations and its bytes (see ``bench_student``). Peers are two networks of
torchvision's for the two tasks (see ``suite_peers``), and ours has to be faster than both together.
On a CPU it runs at a tiny size: ``--config tiny --batch 2 --batches 1 --device cpu --no-compile``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.utils._pytree import tree_leaves

from benchmarks import suite_report as suite
from benchmarks.bench_student import (
    PHOTOGRAPH,
    Limits,
    Work,
    forward_work,
    measure_limits,
    step_seconds,
    step_work,
)
from benchmarks.suite_checks import (
    COMPILED,
    COMPILING,
    INFERENCE,
    STEP,
    SUPPRESSION,
    Bench,
    checks_of,
)
from benchmarks.suite_peers import Peers
from benchmarks.suite_report import Bar, Item
from kdcli.common.device import use_device
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.data.batch import Batch
from kdcli.student.data.color_jitter import distort
from kdcli.student.data.dataset import StudentDataset
from kdcli.student.data.plan import make_plan
from kdcli.student.data.tables import mapped
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.evaluate import evaluate_model
from kdcli.student.evaluation.predict import DRAWING_TO_READING, write_predictions
from kdcli.student.losses.matching import match
from kdcli.student.measure import least_seconds
from kdcli.student.model.preprocessing import normalise
from kdcli.student.tasks.task import Taught
from kdcli.student.training.step import (
    compiled,
    compiled_match,
    lessons_of,
    losses_of,
)
from kdcli.voc.devkit import Devkit, mask_folder
from kdcli.voc.scenes.dataset import make_sample

COMPILING_PARTS = 30
"""Seconds that compiling what surrounds the network may take."""
NETWORK_BARS = {1: Bar(1.5, "ms"), 8: Bar(4, "ms")}


def repeated(bench: Bench, make: Callable[[], Callable[[], object]]) -> Callable[[float], float]:
    """Return a measurement: the least time of as many calls as fit the seconds it is given."""

    def measure(allowed: float) -> float:
        function = make()
        once = least_seconds(function, bench.device, 1)
        more = min(bench.repeats - 1, int(allowed / 2 / once))
        return once if more < 1 else min(once, least_seconds(function, bench.device, more))

    return measure


def items_of(bench: Bench, half: Limits, whole: Limits) -> Iterator[Item]:
    size, again, model = bench.config.optim.batch_size, partial(repeated, bench), bench.model
    one = {n: forward_work(model, normalise(bench.images(1), model.config), n) for n in (2, 4)}

    def times(count: int, value_bytes: int) -> Work:
        weights = value_bytes * sum(p.numel() for p in model.parameters())
        moved = count * (one[value_bytes].bytes - weights) + weights
        return Work(count * one[value_bytes].flops, moved)

    def step(config: RunConfig) -> Callable[[], object]:
        trainer, batch = bench.trainer(config), bench.batch()
        return lambda: trainer.update([batch])

    fast, rate = half.floor(step_work(model, times(size, 2))), Bar(1200, "images/s")
    name = f"training step, bf16, batch {size}"
    yield Item(name, size, again(lambda: step(bench.fast())), fast, rate, STEP)
    for count in bench.batches:
        yield from _inference(bench, count, half.floor(times(count, 2)))
    piped = f"{name}, with the input pipeline"
    yield Item(piped, size, lambda allowed: _piped(bench, allowed), fast, rate, STEP)
    yield from _parts(bench, whole)
    count = len(bench.devkit.image_ids(bench.list_name))
    yield Item(
        f"evaluation of {count} images, bf16", count, again(lambda: _evaluation(bench)),
        half.floor(times(count, 2)), Bar(600, "images/s"), INFERENCE + SUPPRESSION,
    )  # fmt: skip
    yield Item(
        f"prediction of {count} images with overlays, bf16", count,
        again(lambda: _prediction(bench)), half.floor(times(count, 2)), Bar(150, "images/s"),
        INFERENCE + SUPPRESSION,
    )  # fmt: skip
    yield Item(
        f"training step, float32, batch {size}", size, again(lambda: step(bench.plain())),
        whole.floor(step_work(model, times(size, 4))), None, STEP[:1],
    )  # fmt: skip
    yield from _peers(bench, compiled=False)
    if bench.compiled:
        firsts = {
            "an empty cache": (lambda allowed: bench.first_compiled[0], 60),
            "a cache": (lambda allowed: bench.first_steps(bench.translated(), 1)[0], 15),
        }
        for where, (first, seconds) in firsts.items():
            yield Item(
                f"first compiled step, from {where}", size, first, None, Bar(1000 * seconds, "ms"),
                STEP + COMPILED, least=seconds,
            )  # fmt: skip
        name = f"training step, bf16, compiled, batch {size}"
        yield Item(
            name, size, again(lambda: step(bench.translated())), fast, rate, STEP + COMPILED,
            least=COMPILING,
        )  # fmt: skip
        yield from _peers(bench, compiled=True)


def _peers(bench: Bench, *, compiled: bool) -> Iterator[Item]:
    """Two networks for the two tasks, each row beside ours of the same name."""
    how = "bf16, compiled" if compiled else "bf16"
    size, side = bench.config.optim.batch_size, bench.config.model.finest_side
    make = partial(Peers, bench.device, compiled=compiled)
    least = COMPILING if compiled else 0
    ours = f"training step, {how}, batch {size}"
    yield Item(
        f"peers: {ours}", size,
        repeated(bench, lambda: make(size, training=True).training(side)), ours=ours, least=least,
    )  # fmt: skip
    for count in bench.batches:
        ours = f"inference, bf16, batch {count}, with NMS and label maps"
        yield Item(
            f"peers: inference, {how}, batch {count}, with NMS and label maps", count,
            repeated(bench, lambda n=count: make(n, training=False).inference()),
            ours=ours, least=least,
        )  # fmt: skip


def _inference(bench: Bench, count: int, floor: float) -> Iterator[Item]:
    engine, images = bench.engine(bf16=True), bench.images(count)
    name = f"inference, bf16, batch {count}"
    yield Item(
        f"{name}, network", count, repeated(bench, lambda: lambda: engine.outputs(images)),
        floor, NETWORK_BARS.get(count), INFERENCE,
    )  # fmt: skip
    sizes = [PHOTOGRAPH] * count
    yield Item(
        f"{name}, with NMS and label maps", count,
        repeated(bench, lambda: lambda: engine(images, sizes)),
        floor, Bar(480, "images/s") if count == 1 else None, INFERENCE + SUPPRESSION,
    )  # fmt: skip


def _parts(bench: Bench, limits: Limits) -> Iterator[Item]:
    """What surrounds the network in a training step: as it is and, what has bars, compiled."""
    batch, output = bench.batch(), _output(bench)
    read = Work(0, 5 * batch.images.numel())  # a byte read, a float32 written
    said = Work(0, 4 * sum(x.numel() for x in tree_leaves(output)))
    parts = {
        "distort and normalise": (_inputs, limits.floor(read), Bar(1, "ms")),
        "matching and losses, forward": (_losses, limits.floor(said), Bar(1.5, "ms")),
    }
    for name, (part, floor, bar) in parts.items():
        for fast in (False, True) if bench.compiled else (False,):
            yield Item(
                f"{name}, compiled" if fast else name, len(batch.images),
                repeated(bench, partial(part, bench, batch, output, fast=fast)), floor,
                bar if fast else None, COMPILED if fast else (),
                least=COMPILING_PARTS if fast else 0,
            )  # fmt: skip


def _output(bench: Bench) -> Any:
    """What the network says for one image, for a whole batch."""
    batch = bench.batch()
    with torch.no_grad():
        some = bench.model(normalise(batch.images[:1], bench.config.model))
    return mapped(some, lambda x: x.expand(len(batch.images), *x.shape[1:]).contiguous())


def _inputs(bench: Bench, batch: Batch, output: Any, *, fast: bool) -> Callable[[], object]:
    def inputs(images: Tensor, jitter: Tensor) -> Tensor:
        return normalise(distort(images, jitter), bench.config.model)

    # A program takes all from the device; what is launched one by one reads jitter on the host.
    jitter = batch.jitter.to(bench.device) if fast else batch.jitter
    program = compiled(inputs) if fast else inputs
    return lambda: program(batch.images, jitter)


def _losses(bench: Bench, batch: Batch, output: Any, *, fast: bool) -> Callable[[], object]:
    targets = bench.config.targets
    columns = dict(zip(batch.fractions, batch.weights.unbind(dim=1), strict=True))
    terms = [term for term, fraction in batch.fractions.items() if fraction]
    matched, losses = (compiled_match(), compiled(losses_of)) if fast else (match, losses_of)
    taught = Taught(batch, bench.model.anchors, targets, matched)
    return lambda: losses(output, lessons_of(taught, terms), columns, batch.fractions, targets)


def _piped(bench: Bench, allowed: float) -> float:
    plan = make_plan(bench.fast(), bench.devkit, None)
    dataset = StudentDataset(bench.devkit, None, plan.learning, bench.fast(), plan.mask_folder)
    trainer = bench.trainer(bench.fast())
    batch = bench.batch()
    once = least_seconds(lambda: trainer.update([batch]), bench.device, 1)
    return step_seconds(trainer, dataset, max(1, min(bench.repeats, int(allowed / 8 / once))))[1]


def _evaluation(bench: Bench) -> Callable[[], object]:
    ids = bench.devkit.image_ids(bench.list_name)
    workers = int(bench.config.runtime.workers)
    settings = InferenceSettings(batch_size=32, workers=workers, bf16=True)
    engine = Engine(bench.model, settings)
    folder = mask_folder(bench.list_name)
    return lambda: evaluate_model(engine, bench.devkit, ids, folder=folder)


def _prediction(bench: Bench) -> Callable[[], object]:
    """Overlays, masks and boxes of every image as files, drawn and written by workers."""
    ids = bench.devkit.image_ids(bench.list_name)
    images = [(image_id, bench.devkit.image_path(image_id)) for image_id in ids]
    workers = int(bench.config.runtime.workers)
    readers = -(-workers // DRAWING_TO_READING)
    engine = Engine(bench.model, InferenceSettings(batch_size=32, workers=readers, bf16=True))

    def predict() -> object:
        with tempfile.TemporaryDirectory() as folder:
            return write_predictions(engine, images, Path(folder), workers=workers)

    return predict


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=240, help="for all of it")
    parser.add_argument("--out", type=Path, help="folder for the table, as text and as JSON")
    parser.add_argument("--voc", type=Path, help="a devkit; without it, drawn scenes")
    parser.add_argument("--list", default="Segmentation/train")
    parser.add_argument("--scenes", type=int, default=256, help="drawn without a devkit")
    parser.add_argument("--config", default="blitznet300-x4")
    parser.add_argument("--batch", type=int, default=32, help="of training")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="of inference")
    parser.add_argument("--repeats", type=int, default=30, help="of a row at most")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", action="append", default=[], metavar="WORDS",
                        help="rows whose name has these words; may be given again")  # fmt: skip
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction,
                        help="rows with torch.compile, too [default: on a GPU]")  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    until = time.perf_counter()
    options = parse(arguments)
    until += options.seconds
    device = use_device(options.device)
    changes = [f"optim.batch_size={options.batch}", f'data.list="{options.list}"',
               "targets.segmentation.missing_gt=skip", "init.trunk="]  # fmt: skip
    config = fitted(run_config(options.config, changes), device)
    half, whole = (measure_limits(device, dtype) for dtype in (torch.bfloat16, torch.float32))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    with tempfile.TemporaryDirectory() as folder:
        root = options.voc or make_sample(Path(folder) / "voc", images=options.scenes, seed=1).root
        fast = device.type == "cuda" if options.compile is None else options.compile
        bench = Bench(config, device, Devkit.open(root), options.list,
                      tuple(options.batches), options.repeats, fast)  # fmt: skip
        with fresh_cache():  # of the compiler: the first step says what it takes with nothing there
            checks = checks_of(bench, until)
            items = [
                item
                for item in items_of(bench, half, whole)
                if not options.only or any(words in item.name for words in options.only)
            ]
            rows = suite.measure_all(items, checks, until)
    title = (
        f"{options.config} on {name}, torch {torch.__version__}: matrix product "
        f"{half.flops / 1e9:.0f} (bf16) and {whole.flops / 1e9:.0f} GFLOP/s (float32), copy "
        f"{whole.bandwidth / 1e9:.1f} GB/s; {config.runtime.workers} workers"
    )
    print(suite.report(title, checks, rows, options.out))


if __name__ == "__main__":
    main(sys.argv[1:])
