"""The numbers of detections in what an export returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.tutor_gen.exported.returned import Returned
from kdcli.tutor_gen.exported.sidecar import Output, Place

_ROUNDING = 1e-3


class Values(Returned):
    """What an export returned for one image, read as a sidecar's ``[output]`` says.

    Args:
        path: of the export, for messages.
        output: how to read it.
        returned: what it returned.

    Raises:
        TutorError: as `Returned`.
    """

    def __init__(self, path: Path, output: Output, returned: Any) -> None:
        super().__init__(path, returned, output.path, output.batched)
        self.output = output

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

    def _columns(self, table: torch.Tensor, place: Place) -> torch.Tensor:
        assert place.columns is not None
        first, end = place.columns
        rows = table.T if table.dim() == 2 and self.output.columns_first else table
        if rows.dim() != 2 or rows.shape[1] < end:
            raise self.unexpected(f"{place}", f"a tensor of {tuple(table.shape)}")
        return rows[:, first] if place.single else rows[:, first:end]
