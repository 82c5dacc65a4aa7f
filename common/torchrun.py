"""What PyTorch's launcher ``torchrun`` tells a process about itself, in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        rank: 0 to ``world_size`` - 1.
        world_size: How many there are.
        local_rank: Its number among those on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def launch() -> Launch | None:
    """Return what torchrun says of this process; None if it did not start it."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Launch(rank, size, int(os.environ.get("LOCAL_RANK", 0)))


def forget_launch() -> None:
    """Let nothing in this process take it for one of several any more; its GPU stays its own."""
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


def local_rank() -> int | None:
    """Return this process' number on its machine, also after `forget_launch`; None without."""
    number = os.environ.get("LOCAL_RANK")
    return None if number is None else int(number)


def local_processes() -> int:
    """Return how many processes torchrun started on this machine; 1 without."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def passes_signals_on() -> bool:
    """Say whether torchrun started this process: it passes on each signal that it gets."""
    return "TORCHELASTIC_RUN_ID" in os.environ
