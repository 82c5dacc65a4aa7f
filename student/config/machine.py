"""What ``auto`` means: settings of speed, decided by the machine that a run is started on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from kdcli.common.config import changed, flatten
from kdcli.common.distributed import ranks
from kdcli.common.torchrun import local_processes
from kdcli.student.config.schema import AUTO, RunConfig

MOST_WORKERS = 16
WORKERS_ON_CPU = 2
"""Where the network computes on the same cores, more than these only take from it."""
STEPS_WORTH_COMPILING = 5_000
"""A first step that compiled took more than 80 s on an H100. Over so many steps they are earned by
16 ms a step, where BlitzNet300 (batches of 32) takes 64 eagerly and is meant to take 26."""
AS_BEGUN = ("optim.bf16", "runtime.channels_last")
"""What a resumed run goes on with as it began, as the rounding depends on it."""


@dataclass(frozen=True)
class Machine:
    """What one training process has at hand.

    Attributes:
        cores: Of the CPU, this process' share of those that it may use.
        gpu: Whether it computes on a GPU.
        native_bf16: Whether that multiplies bfloat16 in hardware.
        alone: Whether no other process shares the training.
        compiler: Whether ``torch.compile`` finds what it needs.
    """

    cores: int
    gpu: bool = False
    native_bf16: bool = False
    alone: bool = True
    compiler: bool = False

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """Return what this process has, with the device that it computes on."""
        gpu = device.type == "cuda"
        return cls(
            cores=max(1, _usable_cores() // local_processes()),
            gpu=gpu,
            native_bf16=gpu and torch.cuda.get_device_capability(device)[0] >= 8,
            alone=ranks() == 1,
            compiler=_can_compile(),
        )


def meaning(
    config: RunConfig,
    machine: Machine,
    steps_left: int,
    begun: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what every setting means that is ``auto``, by its dotted key.

    On a CPU: no bfloat16, no change of layout, no compilation, at most two workers.

    Args:
        config: What was asked for.
        machine: Where it is started.
        steps_left: How many steps of training are to come.
        begun: What it meant, of ``AS_BEGUN``, when the run was begun; that goes on.
    """
    bf16 = machine.native_bf16 if config.optim.bf16 == AUTO else config.optim.bf16
    workers = min(MOST_WORKERS, machine.cores - 1) if machine.gpu else WORKERS_ON_CPU
    values = {
        "optim.bf16": bf16,
        "runtime.workers": max(1, min(workers, machine.cores)),
        "runtime.channels_last": machine.gpu and bool(bf16),
        "runtime.compile": (
            machine.gpu
            and machine.alone
            and machine.compiler
            and steps_left >= STEPS_WORTH_COMPILING
        ),
        **begun,
    }
    asked = flatten(config)
    return {key: value for key, value in values.items() if asked[key] == AUTO}


def resolved(config: RunConfig, meant: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with what ``meant`` says in the place of ``auto``."""
    asked = flatten(config)
    return changed(config, {key: value for key, value in meant.items() if asked[key] == AUTO})


def fitted(config: RunConfig, device: torch.device, steps_left: int = 0) -> RunConfig:
    """Return the configuration with nothing left ``auto``, for this process and a device."""
    return resolved(config, meaning(config, Machine.here(device), steps_left))


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _can_compile() -> bool:
    """Whether there are Triton, a C compiler, and Python's headers, which it compiles against."""
    return (
        importlib.util.find_spec("triton") is not None
        and any(map(shutil.which, ("cc", "gcc", "clang")))
        and Path(sysconfig.get_path("include"), "Python.h").is_file()
    )
