"""Differences to the baseline as a drawing: each seed, mean and spread, the thesis' beside."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from kdcli.student.experiments.recipe import METRICS
from kdcli.student.experiments.report.figures import COLOURS, STYLE, THESIS_COLOUR, panels, svg
from kdcli.student.experiments.report.results import CellResult, RecipeResult


def effect_figure(result: RecipeResult, metrics: Sequence[str]) -> str | None:
    """Draw each cell's difference to its baseline, a panel a metric; None if there is none.

    What a cell is compared with stands below its name, unless it is the same for all.
    """
    cells = [cell for cell in result.cells if any(result.effect(cell, m) for m in metrics)]
    if not cells:
        return None
    several = len({cell.cell.baseline for cell in cells}) > 1
    with mpl.rc_context(STYLE):
        figure, axes = panels(8.2, 0.9 + (0.46 if several else 0.34) * len(cells), len(metrics))
        for ax, metric in zip(axes, metrics, strict=True):
            _draw(ax, result, cells, metric)
        axes[0].set_yticks(range(len(cells)), [_label(cell, several) for cell in cells])
        for ax in axes[1:]:
            ax.set_yticks(range(len(cells)), [""] * len(cells))
        return svg(figure)


def _draw(ax: Axes, result: RecipeResult, cells: Sequence[CellResult], metric: str) -> None:
    ax.axvline(0, color="#444444", linewidth=0.9)
    for place, cell in enumerate(cells):
        effect, theirs = result.effect(cell, metric), result.thesis_effect(cell, metric)
        if theirs is not None:
            ax.plot(100 * theirs, place, "D", color=THESIS_COLOUR, markersize=5, fillstyle="none")
        if effect is None:
            continue
        own = [100 * value for value in result.differences(cell, metric)]
        ax.plot(own, [place] * len(own), ".", color=COLOURS[0], alpha=0.45)
        spread = float(np.nan_to_num(100 * effect.sd))
        ax.errorbar(100 * effect.mean, place, xerr=spread, fmt="o", color=COLOURS[0], capsize=3)
    ax.set_ylim(len(cells) - 0.4, -0.6)
    ax.set_xlabel(f"Δ {METRICS[metric]}, points")
    ax.grid(visible=False, axis="y")


def _label(cell: CellResult, with_baseline: bool) -> str:
    return cell.cell.label + (f"\nto: {cell.cell.baseline}" if with_baseline else "")
