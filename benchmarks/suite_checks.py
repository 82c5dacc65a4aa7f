"""What the suite for GPUs measures, and the checks that what is fast computes the same."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.suite_report import Check, check
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.batch import Batch
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.measure import drawn_batch
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.decode import all_at_once, one_by_one
from kdcli.student.model.preprocessing import normalise
from kdcli.student.training.trainer import Trainer
from kdcli.voc.devkit import Devkit

STEP, INFERENCE, SUPPRESSION, COMPILED = (0, 1), (2, 3), (4,), (5,)
"""Which checks a row rests on, by their place in ``checks_of``."""
COMPILING = 90
"""Seconds that compiling a network may take: what does is not begun with less left."""


@dataclass(frozen=True)
class Bench:
    """What is measured: the same network in float32, and as training and inference have it."""

    config: RunConfig
    device: torch.device
    devkit: Devkit
    list_name: str
    batches: tuple[int, ...] = (1, 8)
    repeats: int = 30
    compiled: bool = False

    @functools.cached_property
    def model(self) -> BlitzNet:
        """As it is before training, in evaluation mode."""
        return self.trainer(self.plain()).model.eval()

    @functools.cached_property
    def first_compiled(self) -> tuple[float, list[float]]:
        """The seconds of a new trainer's first compiled step, and the losses of two."""
        return self.first_steps(self.translated())

    def first_steps(self, config: RunConfig, steps: int = 2) -> tuple[float, list[float]]:
        """Do a new trainer's first steps: the seconds of the very first, and all losses."""
        trainer, batch = self.trainer(config), self.batch()
        begun = time.perf_counter()
        losses = [float(trainer.update([batch])[0])]
        seconds = time.perf_counter() - begun
        return seconds, losses + [float(trainer.update([batch])[0]) for _ in range(steps - 1)]

    def fast(self) -> RunConfig:
        runtime = replace(self.config.runtime, channels_last=True)
        return replace(self.config, optim=replace(self.config.optim, bf16=True), runtime=runtime)

    def translated(self) -> RunConfig:
        return replace(self.fast(), runtime=replace(self.fast().runtime, compile=True))

    def plain(self) -> RunConfig:
        runtime = replace(self.config.runtime, channels_last=False)
        return replace(self.config, optim=replace(self.config.optim, bf16=False), runtime=runtime)

    def trainer(self, config: RunConfig) -> Trainer:
        trainer = Trainer(config, self.device)
        trainer.to_device()
        return trainer

    def engine(self, *, bf16: bool, graphs: bool = True) -> Engine:
        settings = InferenceSettings(bf16=bf16, graphs=graphs)
        return Engine(self.model, settings)

    def images(self, count: int) -> Tensor:
        rng = torch.Generator().manual_seed(count)
        side = self.config.model.input_size
        shape = (count, 3, side, side)
        drawn = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
        return drawn.to(self.device)

    def batch(self) -> Batch:
        return drawn_batch(self.config, self.config.optim.batch_size).to(self.device)


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest root mean square difference, relative to the second's root mean square."""
    pairs = [(a.float().cpu(), b.float().cpu()) for a, b in zip(one, other, strict=True)]
    return max(float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) for a, b in pairs)


def checks_of(bench: Bench, until: float) -> list[Check]:
    """Carry out the checks; the last one, which compiles, where that is asked for and fits."""
    checks = [
        check("loss of a step, float32 here, on the CPU", 1e-3, lambda: _losses_apart(bench)),
        check("loss of a step, bf16 and float32", 0.03, lambda: _types_apart(bench)),
        check("outputs, folded and as trained", 5e-3, lambda: _folding_apart(bench)),
        check("outputs, bf16 three times and float32", 0.05, lambda: _repeats_apart(bench)),
        check("boxes kept here, one by one", 0, lambda: _kept_apart(bench)),
    ]
    if bench.compiled:
        name, left = "loss of a step, compiled and eager", until - time.perf_counter() - COMPILING
        checks.append(check(name, 0.01, lambda: _programs_apart(bench), left))
    return checks


def _loss(bench: Bench, config: RunConfig, device: torch.device, batch: Batch) -> float:
    trainer = Trainer(config, device)
    trainer.to_device()
    with torch.no_grad():
        return float(trainer.loss(batch.to(device))[0])


def _losses_apart(bench: Bench) -> float:
    batch, plain = drawn_batch(bench.config, 2), bench.plain()
    here, there = (_loss(bench, plain, d, batch) for d in (bench.device, torch.device("cpu")))
    return abs(here - there) / abs(there)


def _types_apart(bench: Bench) -> float:
    batch = drawn_batch(bench.config, 4)
    half, whole = (_loss(bench, c, bench.device, batch) for c in (bench.fast(), bench.plain()))
    return abs(half - whole) / abs(whole)


def _programs_apart(bench: Bench) -> float:
    """Of the second step, too, whose loss shows what the first made of its gradients."""
    pairs = zip(bench.first_compiled[1], bench.first_steps(bench.fast())[1], strict=True)
    return max(abs(compiled - eager) / abs(eager) for compiled, eager in pairs)


@torch.no_grad()
def _as_trained(bench: Bench, images: Tensor) -> list[Tensor]:
    return tree_leaves(bench.model(normalise(images, bench.config.model)))


def _folding_apart(bench: Bench) -> float:
    images = bench.images(3)
    engine = bench.engine(bf16=False, graphs=False)
    return apart(tree_leaves(engine.outputs(images)), _as_trained(bench, images))


def _repeats_apart(bench: Bench) -> float:
    """A graph is recorded with the second call and replayed with the third."""
    engine, images, other = bench.engine(bf16=True), bench.images(3), bench.images(3).flip(0)
    first = [each.clone() for each in tree_leaves(engine.outputs(images))]
    engine.outputs(other)
    again = tree_leaves(engine.outputs(images))
    return max(apart(again, first), apart(again, _as_trained(bench, images)))


def _kept_apart(bench: Bench) -> float:
    rng = torch.Generator().manual_seed(1)
    corners = torch.rand(40, 400, 2, generator=rng) * 0.5
    boxes = torch.cat([corners, corners + torch.rand(40, 400, 2, generator=rng) * 0.5], dim=2)
    scores = torch.rand(40, 400, generator=rng).sort(dim=1, descending=True).values
    alive = scores > 0.05
    here = all_at_once(boxes.to(bench.device), alive.to(bench.device), 0.45).cpu()
    return float((here != one_by_one(boxes, scores, alive, 0.45)).sum())
