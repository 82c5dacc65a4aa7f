"""What the images of a run learn from, as arrays: worker processes share them, however many.

A Python object counts its users in its own memory: a worker that only reads it gets a copy of the
page that it lies in, and in the end of all of them. Arrays have no such counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self, overload

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
"""Indices, or a mask."""


@dataclass(frozen=True)
class ImageTargets:
    """The weights of one image's losses; 0 where it does not learn from that side.

    ``TERMS`` names the weights in the order of a batch's table.
    """

    image_id: str
    detection_gt: float = 0.0
    detection_tutor: float = 0.0
    segmentation_gt: float = 0.0
    segmentation_tutor: float = 0.0

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (
            self.detection_gt,
            self.detection_tutor,
            self.segmentation_gt,
            self.segmentation_tutor,
        )


TERMS: tuple[str, ...] = tuple(field.name for field in fields(ImageTargets)[1:])


@dataclass(frozen=True, eq=False)
class Targets(Sequence[ImageTargets]):
    """A sequence of ``ImageTargets`` that holds no Python object for each of them.

    Attributes:
        names: The image ids as UTF-8, one after the other.
        ends: (n + 1,) int64; id i is ``names[ends[i]:ends[i + 1]]``.
        weights: (n, 4) float64 in the order of ``TERMS``.
    """

    names: bytes
    ends: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]

    @classmethod
    def of(cls, image_ids: Sequence[str], weights: npt.NDArray[np.float64]) -> Self:
        """Return those of these ids, with weights (n, 4)."""
        names = [image_id.encode() for image_id in image_ids]
        ends = np.cumsum([0, *map(len, names)], dtype=np.int64)
        return cls(b"".join(names), ends, weights)

    @classmethod
    def of_rows(cls, rows: Iterable[ImageTargets]) -> Self:
        """Return those of single rows."""
        found = list(rows)
        weights = np.array([row.weights for row in found], np.float64).reshape(-1, len(TERMS))
        return cls.of([row.image_id for row in found], weights)

    def __len__(self) -> int:
        return len(self.weights)

    @overload
    def __getitem__(self, index: int) -> ImageTargets: ...
    @overload
    def __getitem__(self, index: slice) -> Targets: ...
    def __getitem__(self, index: int | slice) -> ImageTargets | Targets:
        """Return one row, or some as `take` does."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return ImageTargets(self.image_id(index), *self.weights[index].tolist())

    def __iter__(self) -> Iterator[ImageTargets]:
        return (self[index] for index in range(len(self)))

    def image_id(self, index: int) -> str:
        """Return one image's id."""
        place = range(len(self))[index]
        return self.names[self.ends[place] : self.ends[place + 1]].decode()

    def of_term(self, term: str) -> npt.NDArray[np.float64]:
        """Return the weights (n,) of one of ``TERMS``."""
        return self.weights[:, TERMS.index(term)]

    def ids(self, rows: Rows) -> list[str]:
        """Return the ids of the images that ``rows`` names."""
        return [self.image_id(index) for index in np.arange(len(self))[rows].tolist()]

    def take(self, rows: Rows) -> Targets:
        """Return the images that ``rows`` names."""
        return Targets.of(self.ids(rows), self.weights[rows])
