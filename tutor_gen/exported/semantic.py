"""The class probabilities of every cell in what an export returned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdcli.tutor_gen.exported.class_list import read_classes
from kdcli.tutor_gen.exported.returned import Returned
from kdcli.tutor_gen.exported.toml import Key, Table, is_key, is_path

_ROUNDING = 1e-3
_SUM_ROUNDING = 0.01
"""How far probabilities of 16 bits may sum from 1."""


@dataclass(frozen=True)
class Semantic:
    """How to read what an export says of every cell.

    Attributes:
        at: key or position of the tensor (K, h, w), of any size: its cells cover the input.
        values: it holds ``"probabilities"`` of the classes, or their ``"logits"``.
        class_names: name of each class number; what is none of VOC's is background.
        path: keys and positions that lead from the return value to it.
        batched: whether it has a first dimension of one image.
    """

    at: Key
    values: str
    class_names: Mapping[int, str]
    path: tuple[Key, ...] = ()
    batched: bool = False


def read_semantic(table: Table) -> Semantic:
    """Read the table ``[semantic]`` of a sidecar; TutorError if it holds anything else."""
    semantic = Semantic(
        at=table.take("at", is_key, "a key or a position"),
        values=table.choice("values", ("probabilities", "logits")),
        class_names=read_classes(table),
        path=tuple(table.take("path", is_path, "a list of keys and positions", [])),
        batched=table.flag("batched"),
    )
    table.end()
    return semantic


def class_probabilities(returned: Returned, semantic: Semantic, classes: int) -> Any:
    """Return the probabilities (K, h, w) float32 of so many class numbers.

    Raises:
        TutorError: there is no such tensor, it holds other values than the sidecar says, or NaN.
    """
    given = returned.tensor(semantic.at)
    if given.dim() != 3 or len(given) != classes or not given.numel():
        expected = f"{classes} classes of every cell, (K, h, w), at '{semantic.at}'"
        raise returned.unexpected(expected, f"{tuple(given.shape)}")
    given = given.float()
    if not given.isfinite().all():
        raise returned.unexpected(f"numbers at '{semantic.at}'", "NaN or infinite ones")
    said, apply = semantic.values, 'values = "{}" under [semantic]'.format
    if _are_probabilities(given) == (said == "probabilities"):
        shown = given if said == "probabilities" else torch.softmax(given, dim=0)
        return shown.clamp(0, 1).numpy().astype(np.float32, copy=False)
    least, most = float(given.min()), float(given.max())
    if said == "logits":
        got = f"probabilities already, {least:.3g} to {most:.3g}; say {apply('probabilities')}"
    else:
        sums = given.sum(dim=0)
        got = (
            f"{least:.3g} to {most:.3g}, in sums of {float(sums.min()):.3g} to "
            f"{float(sums.max()):.3g}; if these are logits, say {apply('logits')}"
        )
    raise returned.unexpected(f"{said} at '{semantic.at}'", got)


def _are_probabilities(values: torch.Tensor) -> bool:
    within = bool(((values >= -_ROUNDING) & (values <= 1 + _ROUNDING)).all())
    return within and bool(((values.sum(dim=0) - 1).abs() <= _SUM_ROUNDING).all())
