"""Tables of text, some cells of which are the best of their row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdcli.voc.metrics.detection import percent

Value = float | None
Best = Callable[..., float] | None
"""``max`` or ``min``; None for what is neither better nor worse."""


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is the best of its kind in the row."""

    text: str
    best: bool = False


Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: over the table.
        groups: what stands over the columns, each over how many of them.
        header: the columns; as many as the groups cover.
        rows: as long as the header.
        note: below the table.
        names: how many columns at the left hold names; the others hold numbers.
    """

    title: str
    groups: tuple[tuple[str, int], ...]
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    names: int = 1


def cells(
    values: Sequence[Value], show: Callable[[Value], str] = percent, best: Best = None
) -> Row:
    """Return values as text, a dash for what is not defined; the best ones marked.

    What looks equal is equally good, and nothing is best where all look equal.

    >>> [cell.best for cell in cells((0.5, 0.7001, 0.7, None), best=max)]
    [False, True, True, False]
    """
    texts = [show(value) for value in values]
    known = [value for value in values if value is not None and not math.isnan(value)]
    if best is None or len({show(value) for value in known}) < 2:
        return tuple(Cell(text) for text in texts)
    return tuple(Cell(text, text == show(best(known))) for text in texts)
