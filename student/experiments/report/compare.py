"""Our numbers beside the thesis': as text, and whether an effect points the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdcli.student.experiments.report.results import CellResult, RecipeResult, Stat

SMALLEST = 0.01
"""An effect of less, in the thesis or here, is called none: one point of mAP or mIoU."""

MISSING = "missing"


@dataclass(frozen=True)
class Entry:
    """A cell's value of one metric, as text in per cent.

    Attributes:
        thesis: The thesis' value.
        ours: Mean +- sample standard deviation (number of seeds).
        thesis_effect: The thesis' difference to the baseline, in points.
        effect: Ours, paired by seed.
        verdict: ``same``, ``opposite``, ``unclear``, or empty without a comparison.
    """

    thesis: str
    ours: str
    thesis_effect: str
    effect: str
    verdict: str


def entry(result: RecipeResult, cell: CellResult, metric: str) -> Entry:
    """Return one cell of a recipe's table."""
    thesis = result.thesis(cell, metric)
    theirs, effect = result.thesis_effect(cell, metric), result.effect(cell, metric)
    return Entry(
        thesis="" if thesis is None else f"{100 * thesis:.1f}",
        ours=_value(cell, metric),
        thesis_effect="" if theirs is None else f"{100 * theirs:+.1f}",
        effect="" if effect is None else _text(effect, "+.1f"),
        verdict="" if theirs is None or effect is None else verdict(theirs, effect),
    )


def _value(cell: CellResult, metric: str) -> str:
    """Return mean, spread and number of seeds in per cent; a dash where that is not defined."""
    stat = cell.stat(metric)
    if stat is None:
        return MISSING if cell.missing else "-"
    return _text(stat, ".1f")


def verdict(theirs: float, ours: Stat) -> str:
    """Say whether an effect points the same way as the thesis'.

    Ours counts if it is at least a point and twice its standard error; of one seed there is no
    standard error, and the answer is ``unclear``.
    """
    if ours.n < 2:
        return "unclear"
    error = ours.sd / math.sqrt(ours.n)
    first, second = _direction(theirs, 0.0), _direction(ours.mean, 2 * error)
    if not first * second:
        return "unclear"
    return "same" if first == second else "opposite"


def _direction(effect: float, noise: float) -> int:
    if abs(effect) < max(SMALLEST, noise):
        return 0
    return 1 if effect > 0 else -1


def _text(stat: Stat, form: str) -> str:
    spread = "" if math.isnan(stat.sd) else f" ± {100 * stat.sd:.1f}"
    return f"{100 * stat.mean:{form}}{spread} ({stat.n})"
