"""What the images of a run learn from, as arrays: worker processes share them, however many.

A Python object counts its users in its own memory: a worker that only reads it gets a copy of the
page that it lies in, and in the end of all of them. Arrays have no such counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
"""Indices, or a mask."""


TEACHERS = ("gt", "tutor")


def terms_of(tasks: Iterable[str]) -> tuple[str, ...]:
    """Return what images may learn: each task from each teacher, in the order of their weights.

    >>> terms_of(["depth"])
    ('depth_gt', 'depth_tutor')
    """
    return tuple(f"{task}_{teacher}" for task in tasks for teacher in TEACHERS)


@dataclass(frozen=True)
class ImageTargets:
    """The weights of one image's losses by term; those that are 0 may be left out."""

    image_id: str
    weights: Mapping[str, float]

    def of(self, term: str) -> float:
        """Return the weight of a term; 0 where the image does not learn it."""
        return self.weights.get(term, 0.0)


@dataclass(frozen=True, eq=False)
class Targets(Sequence[ImageTargets]):
    """A sequence of ``ImageTargets`` that holds no Python object for each of them.

    Attributes:
        names: The image ids as UTF-8, one after the other.
        ends: (n + 1,) int64; id i is ``names[ends[i]:ends[i + 1]]``.
        weights: (n, T) float64.
        terms: T names, of the columns of ``weights``; see `terms_of`.
    """

    names: bytes
    ends: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    terms: tuple[str, ...]

    @classmethod
    def of(
        cls, image_ids: Sequence[str], weights: npt.NDArray[np.float64], terms: tuple[str, ...]
    ) -> Self:
        """Return those of these ids, with weights (n, T)."""
        names = [image_id.encode() for image_id in image_ids]
        ends = np.cumsum([0, *map(len, names)], dtype=np.int64)
        return cls(b"".join(names), ends, weights, terms)

    @classmethod
    def of_rows(cls, rows: Iterable[ImageTargets], terms: tuple[str, ...]) -> Self:
        """Return those of single rows."""
        found = list(rows)
        weights = np.array([[row.of(term) for term in terms] for row in found], np.float64)
        return cls.of([row.image_id for row in found], weights.reshape(-1, len(terms)), terms)

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
        weights = zip(self.terms, self.weights[index].tolist(), strict=True)
        return ImageTargets(self.image_id(index), dict(weights))

    def __iter__(self) -> Iterator[ImageTargets]:
        return (self[index] for index in range(len(self)))

    def image_id(self, index: int) -> str:
        """Return one image's id."""
        place = range(len(self))[index]
        return self.names[self.ends[place] : self.ends[place + 1]].decode()

    def of_term(self, term: str) -> npt.NDArray[np.float64]:
        """Return the weights (n,) of one of ``terms``."""
        return self.weights[:, self.terms.index(term)]

    @property
    def by_tutor(self) -> npt.NDArray[np.bool_]:
        """The rows that a tutor teaches something, (n,)."""
        place = TEACHERS.index("tutor")
        return np.asarray((self.weights[:, place :: len(TEACHERS)] > 0).any(axis=1))

    def ids(self, rows: Rows) -> list[str]:
        """Return the ids of the images that ``rows`` names."""
        return [self.image_id(index) for index in np.arange(len(self))[rows].tolist()]

    def take(self, rows: Rows) -> Targets:
        """Return the images that ``rows`` names."""
        return Targets.of(self.ids(rows), self.weights[rows], self.terms)
