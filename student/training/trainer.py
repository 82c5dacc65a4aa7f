"""The student while it learns: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcli.common.distributed import (
    all_raise,
    objects_of_ranks,
    rank,
    ranks,
)
from kdcli.common.errors import StudentError
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import OptimConfig, RunConfig
from kdcli.student.data.batch import Batch
from kdcli.student.losses.losses import parameter_groups
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.sync_norm import synchronise_batch_norms
from kdcli.student.model.weights import load_trunk
from kdcli.student.runs.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from kdcli.student.runs.directory import record_start
from kdcli.student.training.asynchronous import AsynchronousUpdates
from kdcli.student.training.step import LossModule, training_step

SAMPLE_TRUNK = Path(__file__).parents[1] / "sample" / "tiny-trunk.pth"
"""Made by ``scripts/train_sample_trunk.py``."""


class Trainer:
    """Network, optimiser and number of steps done."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config = fitted(config, device)
        self.device = device
        self.model = BlitzNet(config.model)
        self.step = 0
        self.best_score = -1.0
        self.seconds = 0.0
        self.every_task = False
        self.weights: dict[str, Any] | None = None
        self.asynchronous: AsynchronousUpdates | None = None

    @classmethod
    def start(
        cls,
        config: RunConfig,
        out: Path,
        device: torch.device,
        *,
        every_task: bool = False,
        meant: Mapping[str, Any] | None = None,
    ) -> Trainer:
        """Return a fresh trainer, or the one of the run's last checkpoint.

        Args:
            config: Of the run.
            out: The run's directory.
            device: Of this process.
            every_task: Whether every batch is known to teach both tasks.
            meant: What ``auto`` meant in ``config``, for the run's record.
        """
        trainer = cls(config, device)
        trainer.every_task = every_task
        path = checkpoint_path(out)
        if path.is_file():
            trainer.to_device()
            trainer._restore(load_checkpoint(path))
        else:
            if config.init.trunk:
                path = SAMPLE_TRUNK if config.init.trunk == "sample" else Path(config.init.trunk)
                trainer.weights = asdict(load_trunk(trainer.model, path))
            trainer.to_device()
        if len(set(objects_of_ranks(trainer.step))) > 1:
            all_raise(StudentError(f"The processes do not see the same files in {out}: it must "
                                   "be one folder for all machines"))  # fmt: skip
        if rank() == 0:
            facts = {"processes": ranks(), "trunk": trainer.weights, "auto": dict(meant or {})}
            record_start(out, trainer.step, device, **facts)
        return trainer

    def update(self, batches: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """Do the next step on these batches; the loss and its terms (``training_step``)."""
        lr = learning_rate(self.config.optim, self.step)
        losses = training_step(self.loss, self.optimizer, batches, lr, self.asynchronous)
        self.step += 1
        return losses

    def checkpoint(self) -> Checkpoint:
        """Return the state to save."""
        return Checkpoint(
            step=self.step,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            best_score=self.best_score,
            seconds=self.seconds,
            asynchronous=self.asynchronous.state() if self.asynchronous else {},
        )

    def share_statistics(self) -> None:
        """Give all processes the batch norms' statistics of the first, which are the ones saved."""
        if ranks() > 1 and not self.config.runtime.sync_bn:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def to_device(self) -> None:
        """Make ready to train: the network on its device, its losses, the optimiser."""
        runtime = self.config.runtime
        if ranks() > 1 and runtime.sync_bn:
            synchronise_batch_norms(self.model, self.device, runtime.compile is True)
        self.model.to(self.device)
        if runtime.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.model.train()
        if self.device.type == "cuda":
            # Shapes never differ: cuDNN measures once which of its programs is fastest for each.
            torch.backends.cudnn.benchmark = True
        self.loss: nn.Module = LossModule(self.model, self.model.anchors, self.config)
        if ranks() > 1:
            unused = not self.every_task
            self.loss = DistributedDataParallel(self.loss, find_unused_parameters=unused)
        # The L2 term is part of the loss; Adam adds its gradient, which costs less than its value.
        groups = parameter_groups(self.model, self.config.optim.weight_decay)
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(groups, lr=self.config.optim.lr, fused=fused)
        if self.config.optim.asynchronous.enabled:
            self.asynchronous = AsynchronousUpdates(self.model, self.config.optim)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if self.asynchronous is not None:
            self.asynchronous.load_state(checkpoint.asynchronous)
        self.step = checkpoint.step
        self.best_score = checkpoint.best_score
        self.seconds = checkpoint.seconds


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Return the rate of the step that follows ``step`` steps."""
    return optim.lr * optim.decay ** sum(step >= milestone for milestone in optim.milestones)
