"""Batch norms made part of the convolutions before them: the same function, in fewer passes."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kdcli.student.model.blitznet import BlitzNet


def folded(model: BlitzNet) -> BlitzNet:
    """Return a copy in evaluation mode without the batch norms that follow a convolution.

    With the running statistics a batch norm is a factor and a summand for each channel, which the
    convolution takes into its weights and its bias (float32; the outputs differ by the rounding).
    Which norm follows which convolution is seen in one forward pass of zeros, whatever the trunk;
    what a convolution says is assumed to be read by that norm alone.

    Args:
        model: In any mode; stays as it is.
    """
    copied = copy.deepcopy(model).eval()
    for convolution, norm in _pairs(copied):
        before = cast(nn.Conv2d, copied.get_submodule(convolution))
        after = cast(_BatchNorm, copied.get_submodule(norm))
        copied.set_submodule(convolution, fuse_conv_bn_eval(before, after))
        copied.set_submodule(norm, nn.Identity())
    return copied


@torch.no_grad()
def _pairs(model: BlitzNet) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the batch norms that read what they say."""
    names = {module: name for name, module in model.named_modules()}
    said: list[tuple[Tensor, nn.Module]] = []  # kept, so that no two are one address
    pairs: list[tuple[str, str]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            said.append((output, module))
        else:
            pairs.extend((names[by], names[module]) for what, by in said if what is inputs[0])

    hooks = [
        module.register_forward_hook(note)
        for module in names
        if isinstance(module, nn.Conv2d | _BatchNorm)
    ]
    side = model.config.input_size
    model(torch.zeros(1, 3, side, side, device=model.anchors.device))
    for hook in hooks:
        hook.remove()
    return pairs
