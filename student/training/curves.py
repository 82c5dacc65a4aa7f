"""A run's loss curve as a picture, ``curves.png``: what ``metrics.jsonl`` holds, for the eye."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.common.files import atomic_file
from kdcli.student.runs.directory import METRICS
from kdcli.student.tasks.registry import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
Curve = tuple[list[int], list[float]]

PANELS = (("losses against ground truth", "gt"), ("losses against the tutors", "tutor"))
"""Headings, and the teacher whose losses are below."""


def draw_curves(run: Path) -> Path | None:
    """Draw a run's curves into its directory; a failure is a warning, not the end of a run."""
    try:
        lines = [json.loads(line) for line in (run / METRICS).read_text("utf-8").splitlines()]
        return _draw(run / CURVES, lines, str(run)) if lines else None
    except Exception as error:  # whatever it is, the run matters more
        warnings.warn(f"No curves of {run}: {error}", stacklevel=2)
        return None


def _draw(path: Path, lines: Sequence[Mapping[str, Any]], title: str) -> Path:
    from matplotlib.figure import Figure  # late, and without pyplot: nothing global, no window

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, (heading, teacher) in zip(axes[0], PANELS, strict=True):
        _draw_losses(ax, lines, heading, teacher)
    _draw_rate(axes[1][0], lines)
    _draw_evaluations(axes[1][1], lines)
    for ax in axes.flat:
        ax.set_xlabel("step")
        ax.grid(alpha=0.3)
        ax.set_xlim(0, max(line["step"] for line in lines) * 1.02)
    figure.suptitle(title)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=110, format="png")
    return path


def curve(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Return steps and values of one quantity, of the lines that have it."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in found], [value for _, value in found]


def _draw_losses(ax: Axes, lines: Sequence[Mapping[str, Any]], heading: str, teacher: str) -> None:
    terms = [(task, *own) for task in TASKS for own in TASKS[task].losses.items()]
    for task, ending, colour in terms:
        steps, values = curve(lines, f"loss/{task}_{teacher}{ending}")
        if steps:
            label = f"{task}{ending}".replace("/", ": ")
            ax.plot(steps, values, _style(steps), color=colour, label=label)
    ax.set_title(heading)
    if ax.lines:
        ax.set_ylim(bottom=0)
        ax.legend()
    else:
        _say(ax, "nothing is learned from them")


def _draw_rate(ax: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    steps, values = curve(lines, "lr")
    ax.plot(steps, values, _style(steps), color="tab:gray", drawstyle="steps-post")
    ax.set_yscale("log")
    ax.set_title("learning rate")


def _draw_evaluations(ax: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    ax.set_title("evaluations, %")
    for task in TASKS.values():
        steps, values = curve(lines, f"evaluation/{task.measure.key}")
        if steps:
            best = 100 * max(values)
            ax.plot(steps, [100 * value for value in values], "o-", color=task.colour, ms=4,
                    label=f"{task.name}: {task.measure.label}, best {best:.1f}")  # fmt: skip
    if ax.lines:
        ax.set_ylim(bottom=0)
        ax.legend()
    else:
        _say(ax, "none yet")


def _style(steps: Sequence[int]) -> str:
    """A point for a few values, which a line would not show; a line for many."""
    return "o-" if len(steps) < 15 else "-"


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="tab:gray")
