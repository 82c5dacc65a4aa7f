"""One training step from top to bottom: input, network, losses, gradients, optimiser."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcli.common.distributed import ranks, sum_over_ranks
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.batch import Batch
from kdcli.student.data.color_jitter import distort
from kdcli.student.data.targets import TEACHERS
from kdcli.student.model.preprocessing import normalise
from kdcli.student.tasks.registry import TASKS
from kdcli.student.tasks.task import Judged
from kdcli.student.training.asynchronous import AsynchronousUpdates, samples_of_step


def training_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    lr: float,
    asynchronous: AsynchronousUpdates | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Do one training step on this process' share of it.

    Args:
        module: A ``LossModule``, or the ``DistributedDataParallel`` around one.
        optimizer: Of its network's parameters.
        batches: What the step is worked off in, ``optim.accumulate`` of them.
        lr: The learning rate of this step.
        asynchronous: Holds gradients back until their update is due; None: all are, always.

    Returns:
        The loss and its terms, means over the batches that have them; the losses of all processes
        are to be summed.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for index, batch in enumerate(batches):
        with _gradients_shared(module, index == len(batches) - 1):
            total, terms = module(replace(batch, fractions=_of_all_ranks(batch.fractions)))
            # DistributedDataParallel averages over processes, where the sum is wanted.
            torch.autograd.backward(total * (ranks() / len(batches)))
        losses.append({"loss": total.detach(), **terms})
    if asynchronous is not None:
        asynchronous.exchange(samples_of_step(batches))
    optimizer.step()
    means = _means(losses)
    return means.pop("loss"), means


class LossModule(nn.Module):
    """From a batch to its loss, as one module: what ``DistributedDataParallel`` wraps.

    With the loss outside, the outputs that no image of a batch learns would look used to it.
    """

    def __init__(self, network: nn.Module, anchors: Tensor, config: RunConfig) -> None:
        super().__init__()
        self.network = network
        self.anchors = anchors
        self.config = config
        self.memory_format = (
            torch.channels_last if config.runtime.channels_last is True else torch.contiguous_format
        )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its terms without a gradient."""
        images = normalise(distort(batch.images, batch.jitter), self.config.model)
        images = images.contiguous(memory_format=self.memory_format)
        bf16 = self.config.optim.bf16 is True
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            outputs = self.network(images)
        total, terms = objective(outputs, batch, self.anchors, self.config.targets)
        return total, {name: term.detach() for name, term in terms.items()}


def objective(
    outputs: Mapping[str, Any], batch: Batch, anchors: Tensor, targets: TargetsConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss to minimise and its terms, without weight decay.

    Each task against ground truth and against the tutor: a term is computed over the images of the
    batch that learn it, and enters the sum with their fraction of the batch. With half of the
    images learning from the tutor that is 0.5 * L_gt + 0.5 * L_tutor, each averaged over its own
    half (the thesis' substitution and fill-in). In a combination every image is in both terms,
    with the weights configured.

    Args:
        outputs: The network's by task, for ``batch.images``.
        batch: On the device of ``outputs``.
        anchors: (A, 4) of the network.
        targets: What tutors' words become.

    Returns:
        The float32 scalar, and the terms that the batch has, before their fractions, by name
        (`student.tasks.registry.loss_names`).
    """
    judged = Judged(outputs, batch, anchors, targets)
    columns = dict(zip(batch.fractions, batch.weights.unbind(dim=1), strict=True))
    losses: dict[str, Tensor] = {}
    total = torch.zeros((), device=anchors.device)
    for task in batch.parts:
        for teacher in TEACHERS:
            term = f"{task}_{teacher}"
            if not batch.fractions[term]:
                continue
            parts = TASKS[task].loss(judged, teacher, columns[term])
            losses |= {f"{term}{ending}": loss for ending, loss in parts.items()}
            total = total + batch.fractions[term] * functools.reduce(operator.add, parts.values())
    return total, losses


def _gradients_shared(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Return in what to compute gradients: the processes add theirs after a step's last batch."""
    if isinstance(module, DistributedDataParallel) and not last:
        manager: contextlib.AbstractContextManager[None] = module.no_sync()
        return manager
    return contextlib.nullcontext()


def _of_all_ranks(fractions: Mapping[str, float]) -> dict[str, float]:
    """Return of each term the fraction of all processes' images that learn it."""
    own = torch.tensor(list(fractions.values()), dtype=torch.float64)
    return dict(zip(fractions, (sum_over_ranks(own) / ranks()).tolist(), strict=True))


def _means(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of every loss over the batches that have it."""
    names = dict.fromkeys(name for batch in losses for name in batch)
    found = {name: [batch[name] for batch in losses if name in batch] for name in names}
    return {name: torch.stack(values).mean(dim=0) for name, values in found.items()}
