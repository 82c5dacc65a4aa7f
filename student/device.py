"""Which device to compute on."""

from __future__ import annotations

import os

import torch

from student.errors import StudentError


def pick_device(name: str) -> torch.device:
    """Return the device called ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Each process that ``torchrun`` started on a machine gets a GPU of its own from ``auto`` and
    ``cuda``.

    Raises:
        StudentError: No such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise StudentError(f"Expected a device auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StudentError(
            f"The device {name} is asked for, but PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices here: use --device cpu, or a PyTorch built for this GPU"
        )
    if device.type not in ("cpu", "cuda"):
        raise StudentError(f"Expected a device auto, cpu, cuda or cuda:N, got {name!r}")
    return device
