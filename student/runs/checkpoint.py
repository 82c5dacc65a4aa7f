"""Checkpoints: written atomically, read with ``weights_only``, nothing but tensors and numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdcli.common.errors import StudentError
from kdcli.common.files import atomic_file, explained
from kdcli.common.torch_file import read_torch_file, reason

FOLDER = "checkpoints"
LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Checkpoint:
    """State after ``step`` steps.

    Attributes:
        step: Steps done.
        model: The network's state dict.
        optimizer: The optimiser's state dict.
        best_score: Best score of the periodic evaluations so far; -1 before the first.
        seconds: Time spent training so far, over all starts of the run.
        asynchronous: What its asynchronous updates wait with; empty if it has none.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    best_score: float = -1.0
    seconds: float = 0.0
    asynchronous: dict[str, Any] = field(default_factory=dict)


def checkpoint_path(run: Path, name: str = LAST) -> Path:
    """Return where a run keeps its ``last`` or ``best`` checkpoint."""
    return run / FOLDER / f"{name}.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that ``path`` is at any moment the old one or the new one, whole."""
    with atomic_file(path) as file:
        try:
            torch.save(dict(vars(checkpoint)), file)
        except RuntimeError as error:  # which PyTorch makes of the system's refusal to write
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())
    with explained(path):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, to the host's memory.

    Raises:
        StudentError: There is none, or it is not one of ours.
    """
    try:
        state: Any = read_torch_file(path)
        return Checkpoint(**state)
    except FileNotFoundError as error:
        raise StudentError(
            f"Found no checkpoint {path}: has this run trained up to its first one?"
        ) from error
    except Exception as error:
        raise StudentError(
            f"Cannot read the checkpoint {path} ({reason(error)}): delete it to train again from "
            "the start"
        ) from error
