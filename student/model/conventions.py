"""Weights that were trained on other inputs than the model reads: tell, and convert."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdcli.student.model.preprocessing import PREPROCESSING

_INPUT_VARIANCE_BETWEEN = 60.0  # far above that of unit inputs, far below that of 0..255 ones


def guess_convention(trunk: nn.Module, weights: Mapping[str, Tensor], own: str) -> str:
    """Tell the inputs that a trunk's weights were trained on, a name of ``PREPROCESSING``.

    A filter w turns inputs of variance v into outputs of a variance of the order v * |w|^2, which
    is what the batch norm behind it has recorded: v is about 1 or about 60^2 = 3600. Where that
    says nothing against the model's ``own`` inputs, or nothing at all, it is those.
    """
    weight = weights.get(_stem(trunk))
    norm = _first(trunk, nn.BatchNorm2d)
    variance = None if norm is None else weights.get(f"{norm}.running_var")
    if weight is None or variance is None:
        return own
    energy = weight.float().square().sum(dim=(1, 2, 3))
    alive = energy > 0
    ratio = (variance.float()[alive] / energy[alive]).median()
    found = "rgb-unit" if ratio < _INPUT_VARIANCE_BETWEEN else "bgr-255"
    return own if _is_unit(own) == _is_unit(found) else found


def convert_stem(
    trunk: nn.Module, weights: Mapping[str, Tensor], source: str, target: str
) -> dict[str, Tensor]:
    """Return weights for the inputs ``target`` instead of ``source``, names of ``PREPROCESSING``.

    The stem's input channels are reversed if the order differs, and multiplied by the ratio of
    the deviations; the means are taken for equal, as they are to 1.2 of 255.
    """
    stem = _stem(trunk)
    if source == target or stem not in weights:
        return dict(weights)
    before, after = PREPROCESSING[source], PREPROCESSING[target]
    weight = weights[stem].float() / torch.tensor(before.std).reshape(1, 3, 1, 1)
    if before.order != after.order:
        weight = weight.flip(1)
    return {**weights, stem: weight * torch.tensor(after.std).reshape(1, 3, 1, 1)}


def _is_unit(convention: str) -> bool:
    return PREPROCESSING[convention].std != (1.0, 1.0, 1.0)


def _stem(trunk: nn.Module) -> str:
    return f"{_first(trunk, nn.Conv2d)}.weight"


def _first(trunk: nn.Module, kind: type[nn.Module]) -> str | None:
    return next((name for name, module in trunk.named_modules() if isinstance(module, kind)), None)
