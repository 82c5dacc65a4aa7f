"""Batch normalisation over the whole batch when several processes share it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcli.common.distributed import differentiable_sum_over_ranks, ranks
from kdcli.student.model.blitznet import BlitzNet


class SummedBatchNorm2d(nn.BatchNorm2d):
    """What ``nn.SyncBatchNorm`` does, of operations that CPUs have and torch.compile takes whole.

    Statistics are float32. The processes' batches must be of one size.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W) by mean and variance over all processes' images and pixels."""
        if not self.training:
            return super().forward(x)
        count = ranks() * x.numel() // x.shape[1]
        wide = x.float()
        mean = differentiable_sum_over_ranks(wide.sum(dim=(0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        squares = differentiable_sum_over_ranks(centred.square().sum(dim=(0, 2, 3)))
        self._track(mean, squares / max(count - 1, 1))  # the running variance is the unbiased one
        scale = self.weight * torch.rsqrt(squares / count + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            if running is not None and self.momentum is not None:
                running.lerp_(value, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronise_batch_norms(model: BlitzNet, device: torch.device, compiled: bool) -> None:
    """Replace every batch norm of a model by one over all processes, with the same parameters.

    Args:
        model: In place.
        device: That it computes on.
        compiled: Whether the model will be compiled. PyTorch's own then has to be left out: its
            collectives are among what torch.compile translates without their gradient (2.11).
    """
    if device.type == "cuda" and not compiled:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                norm = SummedBatchNorm2d(child.num_features, child.eps, child.momentum)
                for key in child.state_dict():
                    setattr(norm, key, getattr(child, key))
                setattr(parent, name, norm)
