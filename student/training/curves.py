"""A run's loss curve as a picture, ``curves.png``: what ``metrics.jsonl`` holds, for the eye."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcli.common.files import atomic_file
from kdcli.student.runs.directory import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = "curves.png"
Curve = tuple[list[int], list[float]]

PANELS = (
    ("losses against ground truth", ("detection_gt/class", "detection_gt/box", "segmentation_gt")),
    (
        "losses against the tutors",
        ("detection_tutor/class", "detection_tutor/box", "segmentation_tutor"),
    ),
)
COLOURS = {"class": "tab:blue", "box": "tab:orange", "segmentation": "tab:green"}


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
    for ax, (heading, terms) in zip(axes[0], PANELS, strict=True):
        _draw_losses(ax, lines, heading, terms)
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


def _draw_losses(
    ax: Axes, lines: Sequence[Mapping[str, Any]], heading: str, terms: Sequence[str]
) -> None:
    for term in terms:
        steps, values = curve(lines, f"loss/{term}")
        if steps:
            label = term.replace("_gt", "").replace("_tutor", "").replace("/", ": ")
            ax.plot(steps, values, _style(steps), color=COLOURS[_kind(term)], label=label)
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
    for name, label, colour in (
        ("evaluation/map", "detection: mAP", "tab:blue"),
        ("evaluation/miou", "segmentation: mIoU", "tab:green"),
    ):
        steps, values = curve(lines, name)
        if steps:
            best = 100 * max(values)
            ax.plot(steps, [100 * value for value in values], "o-", color=colour, ms=4,
                    label=f"{label}, best {best:.1f}")  # fmt: skip
    if ax.lines:
        ax.set_ylim(bottom=0)
        ax.legend()
    else:
        _say(ax, "none yet")


def _kind(term: str) -> str:
    return term.split("/")[1] if "/" in term else "segmentation"


def _style(steps: Sequence[int]) -> str:
    """A point for a few values, which a line would not show; a line for many."""
    return "o-" if len(steps) < 15 else "-"


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="tab:gray")
