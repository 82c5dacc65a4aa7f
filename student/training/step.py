"""One training step from top to bottom: input, network, losses, gradients, optimiser."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from kdcli.common.distributed import ranks, sum_over_ranks
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.batch import Batch
from kdcli.student.data.color_jitter import distort
from kdcli.student.data.tables import BoxTable
from kdcli.student.data.targets import terms_of
from kdcli.student.losses.matching import Matches, match
from kdcli.student.model.preprocessing import normalise
from kdcli.student.tasks.registry import TASKS
from kdcli.student.tasks.task import Taught
from kdcli.student.training.asynchronous import (
    AsynchronousUpdates,
    parameters_by_group,
    samples_of_step,
)
from kdcli.student.training.half_weights import half_weights, product_weights

T = TypeVar("T")


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
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    translated = None
    if isinstance(inner, LossModule) and inner.config.runtime.compile is True:
        translated = inner.network
    if translated is not None or asynchronous is not None:
        seen = samples_of_step(batches)
        if translated is not None:
            _forget_untaught(translated, seen)
        if asynchronous is not None:
            asynchronous.exchange(seen)
    optimizer.step()
    means = _means(losses)
    return means.pop("loss"), means


class LossModule(nn.Module):
    """From a batch to its loss, as one module: what ``DistributedDataParallel`` wraps.

    With the loss outside, the outputs that no image of a batch learns would look used to it.

    Compiled, distortion, normalisation, network, losses and the way back are one program without a
    break, whose shapes never differ. What differs from batch to batch is kept from it: the number
    of boxes, as they are matched by a small program of its own, padded to one of a few sizes; and
    which terms a batch has, as it computes all that were seen so far, some by the factor 0.

    Of several processes each has the network alone compiled: the losses' sums over all processes,
    and which outputs nobody learns, are the host's to see.
    """

    def __init__(
        self, network: nn.Module, anchors: Tensor, config: RunConfig, backend: Any = "inductor"
    ) -> None:
        """Keep what is needed; nothing is compiled before the first batch.

        Args:
            network: In training mode.
            anchors: (A, 4) of it.
            config: With nothing ``auto``.
            backend: Of ``torch.compile``.
        """
        super().__init__()
        self.network = network
        self.anchors = anchors
        self.config = config
        self.terms = terms_of(config.model.tasks)
        self.memory_format = (
            torch.channels_last if config.runtime.channels_last is True else torch.contiguous_format
        )
        # Of several processes, gradients that came all at once could not be shared meanwhile.
        self.halved = config.optim.bf16 is True and ranks() == 1
        self._weights = product_weights(network)
        self.compiled = config.runtime.compile is True and ranks() == 1
        self._seen: frozenset[str] = frozenset()
        self._match: Callable[..., Matches] = match
        self._learn = self._forward
        self._outputs: Callable[..., dict[str, Any]] = self._outputs_of
        if self.compiled:
            self._match = compiled_match(backend)
            self._learn = compiled(self._forward, backend)
        elif config.runtime.compile is True:
            # Broken where batch norms over all processes cannot be part of it.
            self._outputs = torch.compile(self._outputs_of, dynamic=False, backend=backend)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its terms without a gradient."""
        device, jitter = batch.images.device, batch.jitter
        present = frozenset(term for term, fraction in batch.fractions.items() if fraction)
        self._seen = self._seen | present if self.compiled else present
        if self.compiled:
            jitter = jitter.to(device, non_blocking=True)
        taught = Taught(batch, self.anchors, self.config.targets, self._match)
        lessons = lessons_of(taught, [term for term in self.terms if term in self._seen])
        fractions = torch.tensor([batch.fractions[term] for term in self.terms])
        fractions = fractions.to(device, non_blocking=True)
        halves = half_weights(self._weights) if self.halved else {}
        total, losses = self._learn(batch.images, jitter, lessons, batch.weights, fractions, halves)
        return total, {
            name: loss.detach() for name, loss in losses.items() if name.split("/")[0] in present
        }

    def _outputs_of(self, images: Tensor, halves: dict[str, Tensor]) -> dict[str, Any]:
        outputs: dict[str, Any] = (
            functional_call(self.network, halves, (images,)) if halves else self.network(images)
        )
        return outputs

    def _forward(
        self,
        images: Tensor,
        jitter: Tensor,
        lessons: dict[str, Any],
        weights: Tensor,
        fractions: Tensor,
        halves: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = normalise(distort(images, jitter), self.config.model)
        images = images.contiguous(memory_format=self.memory_format)
        bf16 = self.config.optim.bf16 is True
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            outputs = self._outputs(images, halves)
        columns = dict(zip(self.terms, weights.unbind(dim=1), strict=True))
        shares = dict(zip(self.terms, fractions.unbind(), strict=True))
        return losses_of(outputs, lessons, columns, shares, self.config.targets)


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
    present = [term for term, fraction in batch.fractions.items() if fraction]
    lessons = lessons_of(Taught(batch, anchors, targets), present)
    columns = dict(zip(batch.fractions, batch.weights.unbind(dim=1), strict=True))
    return losses_of(outputs, lessons, columns, batch.fractions, targets)


@torch.no_grad()
def lessons_of(taught: Taught, terms: Iterable[str]) -> dict[str, Any]:
    """Return by term what a batch teaches (`Task.lesson`)."""
    lessons = {}
    for term in terms:
        task, _, teacher = term.rpartition("_")
        lessons[term] = TASKS[task].lesson(taught, teacher)
    return lessons


def losses_of(
    outputs: Mapping[str, Any],
    lessons: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    fractions: Mapping[str, Tensor | float],
    targets: TargetsConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what `objective` returns, of these lessons.

    Args:
        outputs: The network's by task.
        lessons: By term.
        weights: Of each term, (B,) of the images.
        fractions: Of each term, the fraction of the images that learn it.
        targets: What tutors' words become.
    """
    losses: dict[str, Tensor] = {}
    total = torch.zeros((), device=next(iter(weights.values())).device)
    for term, lesson in lessons.items():
        task, _, _ = term.rpartition("_")
        parts = TASKS[task].loss(outputs[task], lesson, weights[term], targets)
        losses |= {f"{term}{ending}": loss for ending, loss in parts.items()}
        total = total + fractions[term] * functools.reduce(operator.add, parts.values())
    return total, losses


def compiled(function: Callable[..., T], backend: Any = "inductor") -> Callable[..., T]:
    """Return a function as one program without a break, for the shapes that it is called with."""
    program: Callable[..., T] = torch.compile(
        function, fullgraph=True, dynamic=False, backend=backend
    )
    return program


def compiled_match(backend: Any = "inductor") -> Callable[..., Matches]:
    """Return `student.losses.matching.match` as a program for each of a few sizes of tables."""
    return partial(_match_padded, compiled(match, backend))


def _match_padded(
    matched: Callable[..., Matches], anchors: Tensor, boxes: Tensor, labels: Tensor, scores: Tensor
) -> Matches:
    """Match with tables of one of a few sizes, for each of which ``matched`` is compiled."""
    table = BoxTable(boxes, labels, scores).padded()
    return matched(anchors, table.boxes, table.labels, table.scores)


def _forget_untaught(network: nn.Module, seen: Mapping[str, int]) -> None:
    """Take the gradients, all 0, from the tasks that no image of the step teaches.

    A compiled network has them, and Adam would go on along its moments.

    Args:
        network: That was compiled.
        seen: See ``samples_of_step``.
    """
    for group, parameters in parameters_by_group(network).items():
        if not seen[group]:
            for parameter in parameters.values():
                parameter.grad = None


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
