"""Training and inference of a student beside what the device can do at most.

Run from the repository's root:

    python -m benchmarks.bench_student [--voc DEVKIT --list Segmentation/train] [--batch 2]
        [--config blitznet300-x4] [--set NAME=VALUE] [--device auto] [--out FILE]

The device's limits are measured in the same run, by a matrix product and by a copy, in the type
that the network computes in. Floor: the seconds that the limits leave for the model's floating
point operations and for its bytes (weights, and the inputs and outputs of its layers, each moved
once; training: twice more for the gradients, and Adam's state), whichever are more. All ratios
are of one run; a busy machine spoils the seconds more than the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdcli.common.device import pick_device
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.data.batch import Batch
from kdcli.student.data.dataset import StudentDataset, make_loader
from kdcli.student.data.plan import make_plan
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.measure import least_seconds
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.decode import detect, segment
from kdcli.student.model.preprocessing import normalise
from kdcli.student.runs.directory import prepare_run
from kdcli.student.training.trainer import Trainer
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

PHOTOGRAPH = (375, 500)
MAPS = "with NMS (random weights: 8000 boxes) and label maps"
ADAM_BYTES = 4 * 7  # a parameter: gradient read; weight, mean, mean of squares read and written

Row = tuple[str, str, str, str]


class Limits(NamedTuple):
    """What the device does at most, measured."""

    flops: float
    bandwidth: float

    def floor(self, work: Work) -> float:
        return max(work.flops / self.flops, work.bytes / self.bandwidth)


class Work(NamedTuple):
    """What has to be done: floating point operations, and bytes to move."""

    flops: float
    bytes: float


def measure_limits(device: torch.device, dtype: torch.dtype) -> Limits:
    side, count = (8192, 1 << 28) if device.type == "cuda" else (1536, 1 << 25)
    left, right = torch.randn(2, side, side, device=device).to(dtype)
    source = torch.zeros(count, device=device)
    target = torch.ones_like(source)
    product = least_seconds(lambda: left @ right, device, 5)
    copy = least_seconds(lambda: target.copy_(source), device, 5)
    return Limits(2 * side**3 / product, 2 * 4 * count / copy)


def forward_work(model: BlitzNet, images: Tensor, value_bytes: int) -> Work:
    """Operations and bytes of one forward pass."""
    moved = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        values = sum(x.numel() for x in inputs) + output.numel()
        moved += value_bytes * (values + sum(p.numel() for p in module.parameters()))

    # Normalisation and activation can be done on the way; the convolutions' tensors have to move.
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return Work(counter.get_total_flops(), moved)


def step_work(model: BlitzNet, forward: Work) -> Work:
    """Of a training step: twice the forward pass again for the gradients, and the optimiser."""
    parameters = sum(p.numel() for p in model.parameters())
    return Work(3 * forward.flops, 3 * forward.bytes + ADAM_BYTES * parameters)


def step_seconds(trainer: Trainer, dataset: StudentDataset, steps: int) -> tuple[float, float]:
    """One batch again and again, and batches through the pipeline, in turns: medians of a step."""
    device, parts = trainer.device, trainer.config.optim.accumulate
    batches = iter(make_loader(dataset, 0, device))
    same = [next(batches).to(device) for _ in range(parts)]
    pure: list[float] = []
    piped: list[float] = []

    def timed(times: list[float], get: Callable[[], list[Batch]]) -> None:
        begun = time.perf_counter()
        trainer.update(get())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)

    def following() -> list[Batch]:
        return [batch.to(device) for batch in itertools.islice(batches, parts)]

    timed([], following)  # the first step allocates, and wakes the workers
    for _ in range(2):
        for _ in range(steps):
            timed(pure, lambda: same)
        timed([], following)  # what was prepared during the steps before counts for nobody
        for _ in range(steps):
            timed(piped, following)
    return statistics.median(pure), statistics.median(piped)


def training(
    trainer: Trainer, dataset: StudentDataset, steps: int, limits: Limits, value_bytes: int
) -> list[Row]:
    """A step alone, and with the input pipeline."""
    alone, all_of_it = step_seconds(trainer, dataset, steps)
    size, side = trainer.config.optim.batch_size, trainer.config.model.input_size
    image = torch.zeros(1, 3, side, side, device=trainer.device)
    forward = forward_work(trainer.model, image, value_bytes)
    work = step_work(trainer.model, Work(size * forward.flops, size * forward.bytes))
    return [
        line(f"training step, batch {size}, same batch", alone, size, limits.floor(work)),
        line(f"training step, batch {size}, with the pipeline", all_of_it, size,
             limits.floor(work)),
        ("share of the pure step rate", f"{alone / all_of_it:.1%}", "", "bar on a GPU: 95 %"),
    ]  # fmt: skip


def inference(
    model: BlitzNet, batch: int, repeats: int, limits: Limits, config: RunConfig
) -> list[Row]:
    """The network as it was trained and made ready, and with all that a prediction takes."""
    device, bf16 = model.anchors.device, config.optim.bf16 is True
    side = config.model.input_size
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    work = forward_work(model, normalise(images, model.config), 2 if bf16 else 4)
    engine = Engine(model, InferenceSettings(bf16=bf16))

    @torch.no_grad()
    def plain() -> dict[str, Any]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model(normalise(images, model.config))

    @torch.no_grad()
    def plainly() -> object:
        output = plain()
        found = detect(output["detection"], model.anchors, [PHOTOGRAPH] * batch)
        return found, [segment(logits, PHOTOGRAPH).cpu() for logits in output["segmentation"]]

    floor = limits.floor(work)
    rows = []
    for what, before, now in (
        ("network", plain, lambda: engine.outputs(images)),
        (MAPS, plainly, lambda: engine(images, [PHOTOGRAPH] * batch)),
    ):
        slow, fast = (least_seconds(each, device, repeats) for each in (before, now))
        name = f"inference, batch {batch}, {what}"
        rows.append(line(f"{name}, as trained", slow, batch, floor))
        rows.append(line(f"{name}, made ready: {slow / fast:.2f} x", fast, batch, floor))
    return rows


def line(name: str, taken: float, images: int, floor: float) -> Row:
    return name, f"{1000 * taken:.1f} ms", f"{images / taken:.1f} images/s", f"{taken / floor:.1f}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--voc", type=Path, help="a devkit; without it, drawn scenes")
    parser.add_argument("--list", default="Segmentation/train")
    parser.add_argument("--config", default="blitznet300-x4")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--batch", type=int, default=2, help="of training")
    parser.add_argument("--steps", type=int, default=3, help="of training, two times two blocks")
    parser.add_argument("--repeats", type=int, default=5, help="of inference")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="write the table as text, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    config = run_config(
        options.config,
        [
            f"optim.batch_size={options.batch}", f'data.list="{options.list}"',
            "targets.segmentation.missing_gt=skip", *options.set,
        ],
    )  # fmt: skip
    device = pick_device(options.device)
    config = fitted(config, device)
    dtype = torch.bfloat16 if config.optim.bf16 is True else torch.float32
    limits = measure_limits(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rows: list[Row] = [
        ("limit: matrix product", f"{limits.flops / 1e9:.0f} GFLOP/s", "", ""),
        ("limit: copy, read and written", f"{limits.bandwidth / 1e9:.1f} GB/s", "", ""),
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        voc = options.voc or make_sample(root / "voc", images=48, seed=1).root
        devkit = Devkit.open(voc)
        plan = make_plan(config, devkit, None)
        (root / "run").mkdir()
        prepare_run(root / "run", config, plan.targets_csv, plan.facts)
        trainer = Trainer.start(config, root / "run", device)
        dataset = StudentDataset(devkit, None, plan.learning, config, plan.mask_folder)
        rows += training(trainer, dataset, options.steps, limits, dtype.itemsize)
    model = trainer.model.eval()
    one = forward_work(model, torch.zeros(1, 3, *[config.model.input_size] * 2, device=device),
                       dtype.itemsize)  # fmt: skip
    rows.append(("one image forward", f"{one.flops / 1e9:.1f} GFLOP", f"{one.bytes / 1e6:.0f} MB",
                 f"{one.flops / one.bytes:.0f} FLOP a byte"))  # fmt: skip
    for batch in (1, 8):
        rows += inference(model, batch, options.repeats, limits, config)
    title = f"{options.config} on {name}, {torch.get_num_threads()} threads, {dtype}"
    text = title + "\n" + tabulate(rows, ["", "time", "rate", "times the floor"])
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
