"""The report's drawings as SVG text: the thesis' line beside ours, bars per class, loss curves."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from kdcli.student.experiments.recipe import METRICS
from kdcli.student.experiments.report.results import BY_KEY, CellResult, RecipeResult
from kdcli.voc.labels import BACKGROUND

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#9c6b4e")
THESIS_COLOUR = "#777777"
STYLE: Any = {
    # Words stay words: a tenth of the size of outlines, and they can be searched for.
    "svg.fonttype": "none",
    "svg.hashsalt": "kdcli",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
}


def line_figure(result: RecipeResult, metric: str) -> str | None:
    """Draw a figure of the thesis and ours side by side, over equal spans of the metric.

    Equal spans, so that slopes can be compared although the levels differ. None if nothing is
    finished.
    """
    ours = [(_x(cell), stat) for cell in result.cells if (stat := cell.stat(metric)) is not None]
    theirs = [(_x(cell), 100 * number) for cell in result.cells
              if (number := result.thesis(cell, metric)) is not None]  # fmt: skip
    if not ours:
        return None
    middle = np.array([100 * stat.mean for _, stat in ours])
    spread = np.nan_to_num(np.array([100 * stat.sd for _, stat in ours]))
    reached = np.concatenate([middle - spread, middle + spread])
    span = max(_span(reached), _span(np.array([y for _, y in theirs] or [0.0])))
    with mpl.rc_context(STYLE):
        figure, axes = panels(8.2, 3.1, 2 if theirs else 1)
        if theirs:
            x, y = np.array(theirs).T
            axes[0].plot(x, y, "o--", color=THESIS_COLOUR)
            _frame(axes[0], y, span, "thesis")
        x = np.array([place for place, _ in ours])
        axes[-1].errorbar(x, middle, spread, fmt="o-", color=COLOURS[0], capsize=4)
        for cell in result.cells:
            own = [100 * value for value in cell.scores(metric).values()]
            axes[-1].plot([_x(cell)] * len(own), own, ".", color=COLOURS[0], alpha=0.35)
        _frame(axes[-1], reached, span, "here: each seed, mean and spread")
        axes[0].set_ylabel(f"{METRICS[metric]} %")
        figure.supxlabel(result.recipe.axis, fontsize=10)
        return svg(figure)


def _x(cell: CellResult) -> float:
    """The cell's place on the axis; recipes with an axis have one in every cell."""
    return float(cell.cell.x or 0.0)


def class_bars(result: RecipeResult) -> str | None:
    """Draw average precision and IoU of each class, a bar a cell; None if nothing is finished."""
    rows = [metric for metric in BY_KEY if any(cell.class_stat(metric) for cell in result.cells)]
    if not rows:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panels(8.2, 2.3 * len(rows) + 0.6, 1, len(rows))
        for ax, metric in zip(axes, rows, strict=True):
            _bars(ax, result.cells, metric, result.objects)
        figure.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=9,
        )
        return svg(figure)


def loss_curves(result: RecipeResult) -> str | None:
    """Draw the total loss of each cell over the steps, mean over seeds; None without any."""
    curves = [(cell, _mean_curve(cell)) for cell in result.cells]
    if not any(curve for _, curve in curves):
        return None
    with mpl.rc_context(STYLE):
        figure, (ax,) = panels(8.2, 2.8, 1)
        for number, (cell, curve) in enumerate(curves):
            if curve:
                steps, losses = zip(*curve, strict=True)
                colour = _colour(number, len(curves))
                ax.plot(steps, losses, ".-", color=colour, label=cell.cell.label)
        ax.set(xlabel="step", ylabel="loss")
        ax.set_ylim(bottom=0)
        ax.legend(frameon=False, fontsize=9, ncols=2)
        return svg(figure)


def _bars(ax: Axes, cells: Sequence[CellResult], metric: str, objects: Mapping[str, int]) -> None:
    stats = [cell.class_stat(metric) for cell in cells]
    # IoU is 0 for a class that no image shows but that was predicted; AP exists for those shown.
    tables = ([name for cell in cells for name in cell.class_stat(key)] for key in BY_KEY)
    shown = {*next(table for table in tables if table), BACKGROUND}
    every = dict.fromkeys(name for cell in cells for run in cell.runs for name in run.names)
    names = [name for name in every if name in shown and any(name in stat for stat in stats)]
    width = 0.82 / len(cells)
    for number, (cell, stat) in enumerate(zip(cells, stats, strict=True)):
        known = [(place, stat[name]) for place, name in enumerate(names) if name in stat]
        ax.bar(
            [place + (number - (len(cells) - 1) / 2) * width for place, _ in known],
            [100 * each.mean for _, each in known],
            width,
            yerr=[0.0 if math.isnan(each.sd) else 100 * each.sd for _, each in known],
            color=_colour(number, len(cells)),
            label=cell.cell.label,
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
    many = len(names) > 7
    ticks = [f"{name} ({objects[name]})" if name in objects else name for name in names]
    ax.set_xticks(
        range(len(names)), ticks, rotation=30 if many else 0, ha="right" if many else "center"
    )
    ax.set_ylabel(BY_KEY[metric].column)
    ax.set_ylim(0, 100)
    ax.grid(visible=False, axis="x")


def _mean_curve(cell: CellResult) -> list[tuple[int, float]]:
    """The mean over the seeds, at the steps that all of them have."""
    tables = [dict(curve) for run in cell.runs if (curve := run.curve())]
    if not tables:
        return []
    steps = sorted(set.intersection(*(set(table) for table in tables)))
    return [(step, float(np.mean([table[step] for table in tables]))) for step in steps]


def _span(values: np.ndarray) -> float:
    return max(1.25 * float(np.ptp(values)), 4.0)


def _frame(ax: Axes, values: np.ndarray, span: float, title: str) -> None:
    low = max(0.0, float(values.max() + values.min() - span) / 2)
    ax.set(title=title, ylim=(low, low + span))


def _colour(number: int, count: int) -> Any:
    """The colour of one of ``count`` things: a hue of its own even where there are many."""
    if count <= len(COLOURS):
        return COLOURS[number]
    return mpl.colormaps["turbo"](0.05 + 0.9 * number / (count - 1))


def panels(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure of that many inches, and its panels row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    return figure, list(grid.flat)


def svg(figure: Figure) -> str:
    """Return a figure as SVG text."""
    text = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
