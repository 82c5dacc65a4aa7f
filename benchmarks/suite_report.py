"""Rows of a suite of measurements: each beside its floor and its bar, within a time given."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tabulate import tabulate

Verdict = Literal["reached", "missed", "wrong", "failed", "no time left", ""]


@dataclass(frozen=True)
class Check:
    """Whether what is about to be timed computes the right thing.

    Attributes:
        name: What is compared with what.
        difference: How far apart they are, relative; None if the check itself failed.
        allowed: The most that passes.
        note: Why it failed, if it did.
        made: Whether there was time for it.
    """

    name: str
    difference: float | None
    allowed: float
    note: str = ""
    made: bool = True

    @property
    def passed(self) -> bool:
        return self.difference is not None and self.difference <= self.allowed  # NaN does not


@dataclass(frozen=True)
class Bar:
    """What is to be reached: at most so many ms, or at least so many images a second."""

    value: float
    unit: Literal["ms", "images/s"]

    def reached(self, seconds: float, images: int) -> bool:
        if self.unit == "ms":
            return 1000 * seconds <= self.value
        return images / seconds >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.unit == 'ms' else '>='} {self.value:g} {self.unit}"


@dataclass(frozen=True)
class Item:
    """A row to be measured.

    Attributes:
        name: What is measured.
        images: Images of one call.
        measure: From the seconds that it may take to the seconds of one call.
        floor: The least seconds that the device's limits leave for a call; None if not known.
        bar: What is to be reached, if anything.
        checks: By index in the suite's checks: those without which the time counts for nothing.
        ours: Of a peer: the row, measured before, that is to be faster for an image.
        least: Seconds without which it is not begun, as it cannot be stopped: compiling.
    """

    name: str
    images: int
    measure: Callable[[float], float]
    floor: float | None = None
    bar: Bar | None = None
    checks: Sequence[int] = ()
    ours: str | None = None
    least: float = 0


@dataclass(frozen=True)
class Row:
    """A row that was measured, or why not."""

    name: str
    seconds: float | None
    images: int
    floor: float | None
    bar: str
    verdict: Verdict
    note: str = ""


def check(
    name: str, allowed: float, difference: Callable[[], float], seconds: float = math.inf
) -> Check:
    """Carry out one check, if seconds are left for it; whatever it raises is its failure."""
    if seconds <= 0:
        return Check(name, None, allowed, made=False)
    try:
        return Check(name, difference(), allowed)
    except Exception as error:  # the other rows are still worth their time
        return Check(name, None, allowed, f"{type(error).__name__}: {error}")


def measure_all(items: Sequence[Item], checks: Sequence[Check], until: float) -> list[Row]:
    """Measure one row after the other, each in its share of the time that is left.

    Args:
        items: In the order of their worth: the last ones are left out.
        checks: That were carried out.
        until: When to end, by ``time.perf_counter``.
    """
    rows: list[Row] = []
    for index, item in enumerate(items):
        left = until - time.perf_counter()
        facts = item.name, item.images, item.floor, str(item.bar or "")
        if left <= item.least or not all(checks[i].made for i in item.checks):
            rows.append(_row(*facts, None, "no time left"))
            continue
        try:
            seconds = item.measure(left / (len(items) - index))
        except Exception as error:  # out of memory, say
            rows.append(_row(*facts, None, "failed", f"{type(error).__name__}: {error}"[:200]))
            continue
        wrong = [checks[i].name for i in item.checks if not checks[i].passed]
        verdict: Verdict = ""
        if item.bar is not None:
            verdict = "reached" if item.bar.reached(seconds, item.images) else "missed"
        note = "; ".join(wrong)
        ours = next((row for row in rows if row.name == item.ours and row.seconds), None)
        if ours is not None and ours.seconds is not None:
            times = seconds / item.images / (ours.seconds / ours.images)
            verdict, note = "reached" if times > 1 else "missed", f"ours {times:.2f} x as fast"
        rows.append(_row(*facts, seconds, "wrong" if wrong else verdict, note))
    return rows


def _row(
    name: str, images: int, floor: float | None, bar: str, seconds: float | None,
    verdict: Verdict, note: str = "",
) -> Row:  # fmt: skip
    return Row(name, seconds, images, floor, bar, verdict, note)


def report(title: str, checks: Sequence[Check], rows: Sequence[Row], out: Path | None) -> str:
    """Return both tables as text; write them, and the same as JSON, to a folder."""
    told = [
        (c.name, "-" if c.difference is None else f"{c.difference:.2g}", f"{c.allowed:g}",
         "passed" if c.passed else f"FAILED {c.note}" if c.made else "no time left")
        for c in checks
    ]  # fmt: skip
    table = [
        (row.name, _ms(row.seconds), row.seconds and f"{row.images / row.seconds:.1f}",
         _ms(row.floor), row.seconds and row.floor and f"{row.seconds / row.floor:.1f}",
         row.bar, f"{row.verdict} {row.note}".strip())
        for row in rows
    ]  # fmt: skip
    text = "\n".join([
        title, "",
        tabulate(told, ["check", "difference", "allowed", ""]), "",
        tabulate(table, ["", "ms", "images/s", "floor, ms", "times the floor", "bar", ""]), "",
    ])  # fmt: skip
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu_suite.txt").write_text(text, encoding="utf-8")
        facts = {
            "title": title,
            "checks": [{**asdict(c), "passed": c.passed} for c in checks],
            "rows": [asdict(row) for row in rows],
        }
        (out / "gpu_suite.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return text


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{1000 * seconds:.2f}"
