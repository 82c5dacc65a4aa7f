"""What a task costs: a network with it beside one without, in turns, as ratios of one run.

Run from the repository's root:

    python -m benchmarks.bench_tasks [--config tiny] [--batch 8] [--rounds 20] [--device auto]
        [--without detection,segmentation] [--with detection,segmentation,instances]
        [--set NAME=VALUE] [--out FILE]

A training step is that of one batch of drawn scenes, again and again. An inference is of one image:
the network alone, and all that is said of a photograph of 500 x 375 pixels, with the full-size
masks of `MASKS` objects where there are instances. The weights are random; in a round each of the
two has its turn, and a ratio is the median of those of the rounds. On a CPU the time is that of the
process' threads, so that a busy machine spoils it little.
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

import torch
from tabulate import tabulate

from kdcli.common.device import pick_device
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.data.dataset import StudentDataset, make_loader
from kdcli.student.data.plan import make_plan
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.measure import size_of
from kdcli.student.training.trainer import Trainer
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

PHOTOGRAPH = (375, 500)
MASKS = 5

Row = tuple[str, str, str, str]


def in_turns(
    first: Callable[[], object], second: Callable[[], object], rounds: int, device: torch.device
) -> tuple[float, float, float]:
    """Seconds of both, medians, and the median ratio of the second to the first."""

    # On a CPU that of all threads, which does not count while other processes have the core.
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def seconds(function: Callable[[], object]) -> float:
        begun = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - begun

    for function in (first, second) * 2:  # what is slow the first time
        function()
    times = [(seconds(first), seconds(second)) for _ in range(rounds)]
    ratio = statistics.median(there / here for here, there in times)
    medians = (statistics.median(side) for side in zip(*times, strict=True))
    return *medians, ratio


def step_of(config: RunConfig, devkit: Devkit, device: torch.device) -> Callable[[], object]:
    """A training step of one batch that every image teaches by ground truth."""
    plan = make_plan(config, devkit, None)
    trainer = Trainer(config, device)
    trainer.to_device()
    dataset = StudentDataset(devkit, None, plan.learning, config, plan.mask_folder)
    batches = [
        batch.to(device)
        for batch in itertools.islice(make_loader(dataset, 0, device), config.optim.accumulate)
    ]
    return lambda: trainer.update(batches)


def inference_of(
    config: RunConfig, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    """The network on one image, and all that is said of it."""
    trainer = Trainer(config, device)
    trainer.to_device()
    engine = Engine(trainer.model.eval(), InferenceSettings(bf16=config.optim.bf16 is True))
    side = config.model.input_size
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)

    def everything() -> object:
        (said,) = engine(image, [PHOTOGRAPH])
        instances = said.get("instances")
        return said, [] if instances is None else list(itertools.islice(instances.masks(), MASKS))

    return lambda: engine.outputs(image.to(device)), everything


def measure(
    configs: Sequence[RunConfig], devkit: Devkit, device: torch.device, rounds: int
) -> list[Row]:
    steps = [step_of(config, devkit, device) for config in configs]
    networks, predictions = zip(*(inference_of(config, device) for config in configs), strict=True)
    size = configs[0].optim.batch_size
    rows = []
    for name, (first, second) in (
        (f"training step, batch {size}", steps),
        ("inference, batch 1, network", networks),
        (f"inference, batch 1, everything ({MASKS} full-size masks)", predictions),
    ):
        here, there, ratio = in_turns(first, second, rounds, device)
        rows.append((name, f"{1000 * here:.1f} ms", f"{1000 * there:.1f} ms", f"{ratio:.3f}"))
    sizes = [size_of(config.model) for config in configs]
    for name, attribute, unit in (
        ("operations forward", "flop", "GFLOP"), ("parameters", "parameters", "G"),
    ):  # fmt: skip
        one, other = (getattr(each, attribute) for each in sizes)
        rows.append((name, f"{one / 1e9:.3f} {unit}", f"{other / 1e9:.3f} {unit}",
                     f"{other / one:.3f}"))  # fmt: skip
    return rows


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--without", default="detection,segmentation")
    parser.add_argument("--with", dest="given", default="detection,segmentation,instances")
    parser.add_argument("--batch", type=int, default=8, help="of training")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="write the table as text, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    device = pick_device(options.device)
    configs = [
        fitted(
            run_config(
                options.config,
                [
                    f"model.tasks={tasks.split(',')}", f"optim.batch_size={options.batch}",
                    'data.list="Segmentation/train"', *options.set,
                ],
            ), device,
        )
        for tasks in (options.without, options.given)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        devkit = make_sample(Path(folder) / "voc", images=48, seed=1)
        rows = measure(configs, devkit, device, options.rounds)
    title = f"{options.config} on {device}, {torch.get_num_threads()} threads"
    text = title + "\n" + tabulate(rows, ["", options.without, options.given, "ratio"])
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
