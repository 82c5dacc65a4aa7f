"""How large a network is, and how fast it trains and infers on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdcli.student.config.schema import RunConfig
from kdcli.student.data.batch import Batch, Sample, collate
from kdcli.student.data.color_jitter import draw_color_jitter
from kdcli.student.data.targets import terms_of
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import ModelConfig
from kdcli.student.tasks.registry import tasks_of
from kdcli.student.training.trainer import Trainer

FEW = 2
"""The smallest batch to train on: batch norm needs two values, of a map with one cell, too."""
STEP_SECONDS = 1.0
"""How long a measured step may take before its batch is no longer enlarged."""
REPEATS = 3


@dataclass(frozen=True)
class Size:
    """Of a network.

    Attributes:
        parameters: All of them.
        trainable: Those that are not frozen.
        flop: Floating point operations of the convolutions and matrix products of one image's
            forward pass; a multiplication and the addition after it are two.
    """

    parameters: int
    trainable: int
    flop: int


@dataclass(frozen=True)
class Speed:
    """Images a second, the best of a few tries: what others do on the machine only adds to it.

    Attributes:
        trained: Of forward pass, losses, backward pass and optimiser, without the input pipeline.
        batch: Images of each of these steps.
        inferred: Of the network, image by image, without the suppression of double boxes.
    """

    trained: float
    batch: int
    inferred: float


def size_of(config: ModelConfig) -> Size:
    """Count a network's parameters and operations; nothing is computed."""
    with torch.device("meta"):
        model = BlitzNet(config).eval()
        image = torch.empty(1, 3, config.input_size, config.input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    every = list(model.parameters())
    trainable = sum(p.numel() for p in every if p.requires_grad)
    return Size(sum(p.numel() for p in every), trainable, int(counter.get_total_flops()))


def speed_of(config: RunConfig, device: torch.device) -> Speed:
    """Measure training, on batches of up to ``optim.batch_size`` images of noise, and inference."""
    trainer = Trainer(config, device)
    trainer.to_device()
    batch = FEW
    seconds = _seconds_of_step(trainer, batch, 1)
    largest = max(config.optim.batch_size // config.optim.accumulate, FEW)
    fitting = min(largest, int(STEP_SECONDS / seconds * batch))
    if fitting > batch:
        batch = fitting
        seconds = _seconds_of_step(trainer, batch, REPEATS)
    image = drawn_batch(config, 1).images.to(device)
    engine = Engine(trainer.model, InferenceSettings.of_run(trainer.config))
    inferred = least_seconds(lambda: engine.outputs(image), device, REPEATS)
    return Speed(batch / seconds, batch, 1 / inferred)


def drawn_batch(config: RunConfig, images: int) -> Batch:
    """Return a batch of noise that learns all tasks from ground truth, as noisy."""
    rng = np.random.default_rng(config.seed)
    return collate([_drawn_sample(rng, config) for _ in range(images)])


def _drawn_sample(rng: np.random.Generator, config: RunConfig) -> Sample:
    side = config.model.input_size
    return Sample(
        image_id="noise",
        image=rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
        parts={task.name: task.noise(rng, config.model) for task in tasks_of(config.model)},
        weights={term: float(term.endswith("gt")) for term in terms_of(config.model.tasks)},
        jitter=draw_color_jitter(rng, config.augmentation),
    )


def _seconds_of_step(trainer: Trainer, images: int, repeats: int) -> float:
    batch = drawn_batch(trainer.config, images).to(trainer.device)
    return least_seconds(lambda: trainer.update([batch]), trainer.device, repeats)


def least_seconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Least wall time of some calls, after one more to warm up: what others do only adds to it."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])
