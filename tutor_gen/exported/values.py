"""Finding numbers among what an export returned, and saying so where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.sidecar import Key, Output, Place

_ROUNDING = 1e-3


class Values:
    """What an export returned for one image.

    Args:
        path: of the export, for messages.
        output: how to read it.
        returned: what it returned.

    Raises:
        TutorError: here and in the methods, where it is not as the sidecar says.
    """

    def __init__(self, path: Path, output: Output, returned: Any) -> None:
        self.path = path
        self.output = output
        self._detections = self._follow(returned, output.path)

    def array(self, place: Place, dimensions: int) -> NDArray[Any]:
        """Return a table (n, columns) or a list (n,) of numbers."""
        table = self.tensor(place.key)
        if place.columns is not None:
            table = self._columns(table, place)
        elif dimensions == 2 and table.dim() == 2 and self.output.columns_first:
            table = table.T
        if table.dim() != dimensions:
            raise self.unexpected(f"{place} of {dimensions} dimensions", f"{tuple(table.shape)}")
        return table.numpy()

    def tensor(self, key: Key) -> torch.Tensor:
        """Return a tensor, on the CPU; 16 bits as 32 where NumPy has no such type."""
        value = self._follow(self._detections, (key,))
        if not isinstance(value, torch.Tensor):
            raise self.unexpected(f"'{key}' to be a tensor", type(value).__name__)
        if self.output.batched:
            if not value.dim() or len(value) != 1:
                got = f"{tuple(value.shape)}"
                raise self.unexpected(f"'{key}' with a first dimension of one image", got)
            value = value[0]
        value = value.detach().cpu()
        return value.float() if value.dtype == torch.bfloat16 else value

    def confidences(self, place: Place, dimensions: int) -> NDArray[np.float32]:
        """Return an array of numbers 0..1; whether they are is only checked where they decide."""
        given = self.array(place, dimensions)
        if given.dtype.kind != "f":
            raise self.unexpected(f"confidences 0..1 at {place}", f"numbers of {given.dtype}")
        scores: NDArray[np.float32] = given.astype(np.float32)
        if self.output.chooses and scores.size:
            least, most = scores.min(), scores.max()
            if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
                raise self.unexpected(
                    f"confidences 0..1 at {place}",
                    f"{least:.3g} to {most:.3g}; let the export apply its sigmoid or softmax",
                )
        return scores

    def unexpected(self, expected: str, got: str) -> TutorError:
        """Return the error that something is not as the sidecar says."""
        return TutorError(
            f"{self.path}: by its sidecar, expected the output to have {expected}, got {got}"
        )

    def _columns(self, table: torch.Tensor, place: Place) -> torch.Tensor:
        assert place.columns is not None
        first, end = place.columns
        rows = table.T if table.dim() == 2 and self.output.columns_first else table
        if rows.dim() != 2 or rows.shape[1] < end:
            raise self.unexpected(f"{place}", f"a tensor of {tuple(table.shape)}")
        return rows[:, first] if place.single else rows[:, first:end]

    def _follow(self, value: Any, path: Sequence[Key]) -> Any:
        for key in path:
            # Outputs with names have positions, too.
            by_position = isinstance(value, Mapping) and isinstance(key, int) and key not in value
            inside: Any = list(value.values()) if by_position else value
            try:
                value = inside[key]
            except (KeyError, IndexError, TypeError):
                raise self.unexpected(f"something at {key!r}", _outline(value)) from None
        return value


def _outline(value: Any) -> str:
    """Name what an export returned, one level deep."""
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
