"""Several processes, one training: started by ``torchrun``, they share the work of every batch.

In a process of its own, all of this does nothing and costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kdcli.common.torchrun import launch

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for another; torchrun notices a dead one at once, whatever this is."""


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started with this one, if it did."""
    if launch() is None:
        yield
        return
    # Small numbers that the host decides by go through gloo, wherever the gradients go.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    except RuntimeError as error:
        if not _lost_the_others(error):
            raise
        raise SystemExit(f"Process {rank()} of {ranks()} stops, as another one did") from error
    # Not after an error: the others may be anywhere, and the system tidies up after this process.
    dist.destroy_process_group()


def rank() -> int:
    """Return this process' number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_process() -> bool:
    """Return whether this process speaks for all; known before and after they are joined, too."""
    started = launch()
    return started is None or started.rank == 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of all processes' tensors of one shape, without a gradient."""
    if ranks() == 1:
        return values
    total: Tensor = _sum(values.detach())
    return total


def differentiable_sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of all processes' tensors; gradients flow back to every one of them."""
    if ranks() == 1:
        return values
    total: Tensor = _sum(values)
    return total


def gather_over_ranks(values: Tensor) -> Tensor:
    """Return all processes' tensors of one shape, (ranks, ...), without a gradient."""
    if ranks() == 1:
        return values[None]
    values = values.detach().contiguous()
    table = values.new_empty((ranks(), *values.shape))
    dist.all_gather(list(table.unbind()), values)
    return table


def objects_of_ranks(value: T) -> list[T]:
    """Return all processes' values, which pickle must know."""
    if ranks() == 1:
        return [value]
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return values


def first_rank_does(function: Callable[[], T]) -> T:
    """Return what ``function`` returns in the first process, the only one to call it.

    If it fails there, that process raises the error and the others leave quietly.
    """
    if ranks() == 1:
        return function()
    outcome: list[Any] = [None, False]
    if rank() == 0:
        try:
            outcome = [function(), True]
        except BaseException:
            dist.broadcast_object_list(outcome)
            raise
    dist.broadcast_object_list(outcome)
    if not outcome[1]:
        raise SystemExit(1)
    value: T = outcome[0]
    return value


def all_raise(error: BaseException) -> NoReturn:
    """End all processes for one reason, which the first of them reports alone."""
    raise error if rank() == 0 else SystemExit(1)


@torch.library.custom_op("kdcli::sum", mutates_args=(), schema="(Tensor values) -> Tensor")
def _sum(values: Tensor) -> Tensor:
    """The sum over the processes, as one operation that torch.compile does not look into.

    What it sees of ``all_reduce`` it translates; PyTorch 2.11 then loses the gradient, without a
    word.
    """
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@_sum.register_fake
def _like(values: Tensor) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _gradient(_: Any, gradient: Tensor) -> Tensor:
    """The loss being a sum over the processes, too, so is the gradient."""
    summed: Tensor = _sum(gradient)
    return summed


_sum.register_autograd(_gradient)


def _lost_the_others(error: RuntimeError) -> bool:
    """Whether a collective failed because another process is gone; its own message says why."""
    known = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or any(text in str(error) for text in known)
