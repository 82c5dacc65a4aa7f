"""How long loops show their progress: they pass what they iterate through a ``Progress``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Called with the items, their number and a label; yields the items."""


def no_progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
    """A progress bar that shows nothing."""
    return items
