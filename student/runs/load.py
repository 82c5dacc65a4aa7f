"""A trained run's network, ready to be used."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from kdcli.common.errors import StudentError
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.runs.checkpoint import LAST, checkpoint_path, load_checkpoint
from kdcli.student.runs.directory import recorded_config


class LoadedRun(NamedTuple):
    """A run's configuration, its network in evaluation mode, and how many steps trained it.

    What was ``auto`` is what fits the device that the network is on now.
    """

    config: RunConfig
    model: BlitzNet
    step: int


def load_run(run: Path, *, checkpoint: str = LAST, device: torch.device | str = "cpu") -> LoadedRun:
    """Load a run's ``last`` or ``best`` checkpoint.

    Raises:
        StudentError: No such run or checkpoint.
    """
    config = fitted(recorded_config(run), torch.device(device))
    path = checkpoint_path(run, checkpoint)
    state = load_checkpoint(path)
    model = BlitzNet(config.model).to(device)
    try:
        model.load_state_dict(state.model)
    except RuntimeError as error:
        raise StudentError(
            f"{path} does not hold the weights of the network in {run}'s configuration: "
            "the two come from different runs or versions"
        ) from error
    return LoadedRun(config, model.eval(), state.step)
