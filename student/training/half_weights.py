"""The weights of a step in bfloat16, all made by one kernel instead of one each.

Autocast makes them one by one, and turns their gradients back one by one: on a GPU twice as many
launches as a network has convolutions. The values are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def product_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return weights and biases of all convolutions and linear layers, by name."""
    return {
        f"{path}.{name}": weight
        for path, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        for name, weight in module.named_parameters(recurse=False)
    }


def half_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in bfloat16, as ``torch.func.functional_call`` takes them.

    Args:
        weights: In float32, what autocast would use in bfloat16 (`product_weights`).

    Returns:
        The same by name, in their layouts. Gradients go through them to the given ones, in float32,
        and to none whose copy was not used.
    """
    return dict(zip(weights, _Halved.apply(*weights.values()), strict=True))


class _Halved(torch.autograd.Function):
    """Tensors in bfloat16, and the way back."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return _together(weights, torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wide = iter(_together([each for each in gradients if each is not None], torch.float32))
        return tuple(None if each is None else next(wide) for each in gradients)


def _together(tensors: Any, dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = tuple(torch.empty_like(each, dtype=dtype) for each in tensors)
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies
