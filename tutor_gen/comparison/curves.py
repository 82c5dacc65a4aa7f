"""A comparison's curves as one SVG: F1 and mIoU over thresholds, precision over scores.

Imports matplotlib, a second's work.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from kdcli.tutor_gen.comparison.compare import StoreScores
from kdcli.tutor_gen.comparison.thresholds import deciding_miou

_STYLE: Any = {
    "svg.fonttype": "none",  # words stay words: small, and they can be searched for
    "svg.hashsalt": "kdcli",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
}
_SIZE = (12.0, 3.6)
"""Inches, of all panels together."""
_LEAST_BOXES = 10
"""Bins of fewer boxes are not drawn: one of them more or less would move the line too far."""
Curve = tuple[list[float], list[float]]


def curves(stores: Sequence[StoreScores]) -> str:
    """Draw a line a store in each of three panels, as SVG text."""
    panels: list[tuple[str, str, Callable[[StoreScores], Curve]]] = [
        ("F1 of the boxes", "boxes from confidence", _f1),
        ("mIoU of the label vectors", "entries from confidence", _miou),
        ("Precision of the boxes", "their score", _precision),
    ]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (title, label, curve) in zip(axes, panels, strict=True):
            for store in stores:
                ax.plot(*curve(store), "o-", markersize=3, label=store.name)
            _frame(ax, title, label)
        axes[-1].plot([0, 1], [0, 1], ":", color="0.5", label="calibrated")
        handles, labels = axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        return _svg(figure)


def _frame(ax: Axes, title: str, label: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set(xlabel=label, xlim=(0, 1), ylim=(0, 1))


def _f1(store: StoreScores) -> Curve:
    swept = store.evaluation.thresholds
    return [s.threshold or 0.0 for s in swept], [s.f1 for s in swept]


def _miou(store: StoreScores) -> Curve:
    swept = store.evaluation.vector_thresholds
    values = [deciding_miou(score, store.evaluation, store.frequent) for score in swept]
    return [s.threshold or 0.0 for s in swept], values


def _precision(store: StoreScores) -> Curve:
    found = store.reliability
    if found is None:
        return [], []
    drawn = [i for i, boxes in enumerate(found.boxes) if boxes >= _LEAST_BOXES]
    return [found.scores[i] for i in drawn], [found.precision[i] for i in drawn]


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
