"""What a metric is called, and where its result and an evaluation's JSON keep its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

FREQUENT = "_frequent"
"""Behind a metric's key: its mean over the classes with many objects (`voc.metrics.frequent`)."""


@dataclass(frozen=True)
class Measure:
    """A metric, 0..1, more being better; its names are attributes of a result and keys in JSON.

    Attributes:
        section: The part of an evaluation that it is in.
        key: Its mean over all classes that occur; ``key`` + `FREQUENT` over the frequent ones.
        label: What the mean is called.
        per_class: Its value for each class; empty if it has none.
        column: What that is called in a table.
        amount: How much of each class was evaluated.
    """

    section: str
    key: str
    label: str
    per_class: str
    column: str
    amount: str

    def mean(self, result: Any) -> float:
        """Return a result's mean over all classes."""
        return float(getattr(result, self.key))

    def mean_frequent(self, result: Any) -> float:
        """Return a result's mean over the frequent classes."""
        return float(getattr(result, self.key + FREQUENT))

    def of_classes(self, result: Any) -> Mapping[str, float]:
        """Return a result's value for each class, nan where it is not defined."""
        return getattr(result, self.per_class) if self.per_class else {}

    def amounts(self, result: Any) -> Mapping[str, int]:
        """Return how much of each class a result is of."""
        return getattr(result, self.amount) if self.amount else {}


class Result(Protocol):
    """A score; what it holds is named by its measure."""

    measure: ClassVar[Measure]

    @property
    def frequent(self) -> tuple[str, ...]:
        """The classes with many objects, without the background."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None stands for what is not defined."""
