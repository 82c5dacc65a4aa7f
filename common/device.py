"""Which device to compute on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from kdcli.common.errors import ResourceError
from kdcli.common.torchrun import local_rank


def pick_device(name: str) -> torch.device:
    """Return the device called ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Each process that ``torchrun`` started on a machine gets a GPU of its own from ``auto`` and
    ``cuda``.

    A CUDA device always has its number: PyTorch's ``set_device`` and others refuse plain ``cuda``.

    Raises:
        ResourceError: No such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ResourceError(f"Expected a device auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ResourceError(f"Expected a device auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        rank = local_rank()
        if device.index is None:
            device = torch.device("cuda", rank or 0)
        _check_there(device, rank)
    return device


def use_device(name: str) -> torch.device:
    """Return the device of that name, a GPU as PyTorch's current one: pinned memory belongs to it.

    Raises:
        ResourceError: As `pick_device`.
    """
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _check_there(device: torch.device, rank: int | None) -> None:
    gpus = torch.cuda.device_count()
    if device.index < gpus:
        return
    if gpus and rank is not None:
        raise ResourceError(
            f"Process {rank} of this machine has no GPU of its own, there are {gpus}: start at "
            "most one process for each with --nproc-per-node, or use the device cpu"
        )
    raise ResourceError(
        f"The device {device} is asked for, but PyTorch sees {gpus} CUDA devices here: use "
        "--device cpu, or a PyTorch built for this GPU"
    )


def on_its_way(x: Tensor) -> Callable[[], NDArray[Any]]:
    """Begin to copy a tensor to the host; the function returned waits until it is there."""
    if not x.is_cuda:
        return x.numpy
    copy = x.to("cpu", non_blocking=True)  # into page-locked memory
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record(torch.cuda.current_stream(x.device))

    def wait() -> NDArray[Any]:
        there.synchronize()
        array: NDArray[Any] = copy.numpy()
        return array

    return wait
