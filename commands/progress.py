"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

SECONDS_BETWEEN_LINES = 10
UNITS = {"train": "step"}


def progress(iterable: Iterable[Any], total: int, label: str) -> Iterator[Any]:
    """Pass ``iterable`` on, showing how far it is, its rate and the time left."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(
            iterable, total=total, desc=label, unit=UNITS.get(label, "image"), dynamic_ncols=True
        )
        return
    started = printed = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - printed >= SECONDS_BETWEEN_LINES:
            printed, rate = now, done / max(now - started, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if done < total else ""
            click.echo(f"{label}: {done} of {total}, {rate:.1f} a second{left}", err=True)
