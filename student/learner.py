"""The student while it learns: network, optimiser, and one training step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from student.batch import Batch
from student.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from student.config import OptimConfig, RunConfig
from student.losses import parameter_groups
from student.model.blitznet import BlitzNet, normalise
from student.model.weights import load_trunk
from student.objective import objective
from student.photometric import distort
from student.run import record_start

SAMPLE_TRUNK = Path(__file__).with_name("sample") / "tiny-trunk.pth"
"""Made by ``scripts/train_sample_trunk.py``."""


class Learner:
    """Network, optimiser and step: all that a checkpoint holds, and the training step itself."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.model = BlitzNet(config.model)
        self.step = 0
        self.best_score = -1.0
        self.seconds = 0.0
        self.weights: dict[str, Any] | None = None

    @classmethod
    def start(cls, config: RunConfig, out: Path, device: torch.device) -> Learner:
        """Return a fresh learner, or the one of the run's last checkpoint."""
        learner = cls(config, device)
        path = checkpoint_path(out)
        if path.is_file():
            learner._to_device()
            learner._restore(load_checkpoint(path))
        else:
            if config.init.trunk:
                path = SAMPLE_TRUNK if config.init.trunk == "sample" else Path(config.init.trunk)
                learner.weights = asdict(load_trunk(learner.model, path))
            learner._to_device()
        record_start(out, learner.step, device, trunk=learner.weights)
        return learner

    def update(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Do one training step; return the loss and its parts."""
        optim = self.config.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, self.step)
        images = normalise(distort(batch.images, batch.photometric))
        images = images.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=optim.bf16):
            output = self.model(images)
        total, parts = objective(output, batch, self.model.anchors, self.config.targets)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        self.optimizer.step()
        self.step += 1
        return total, parts

    def checkpoint(self) -> Checkpoint:
        """Return the state to save."""
        return Checkpoint(
            step=self.step,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            best_score=self.best_score,
            seconds=self.seconds,
        )

    def _to_device(self) -> None:
        channels_last = self.config.runtime.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(self.device)
        self.model.to(memory_format=self.memory_format)
        self.model.train()
        # The L2 term is part of the loss; Adam adds its gradient, which costs less than its value.
        groups = parameter_groups(self.model, self.config.optim.weight_decay)
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(groups, lr=self.config.optim.lr, fused=fused)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step = checkpoint.step
        self.best_score = checkpoint.best_score
        self.seconds = checkpoint.seconds


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Return the rate of the step that follows ``step`` steps."""
    return optim.lr * optim.decay ** sum(step >= milestone for milestone in optim.milestones)
