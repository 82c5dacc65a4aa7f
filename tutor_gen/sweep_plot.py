"""The sweeps of `tutor_gen.calibration` as one picture. Imports matplotlib, a second's work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cache.files import atomic_file
from tutor_gen.calibration import CalibrationScore, ThresholdScore
from tutor_gen.errors import TutorError

_SIZE = (6.4, 4.4)
"""Inches, of one panel."""


def plot_sweeps(
    path: Path,
    thresholds: Sequence[ThresholdScore],
    calibration: Sequence[CalibrationScore],
    title: str,
) -> None:
    """Write a PNG with a panel for each sweep that is there; one of them at least."""
    panels = [bool(thresholds), bool(calibration)]
    figure = Figure(figsize=(_SIZE[0] * sum(panels), _SIZE[1]), layout="constrained")
    axes = iter(figure.subplots(1, sum(panels), squeeze=False)[0])
    if thresholds:
        _plot_thresholds(next(axes), thresholds)
    if calibration:
        _plot_calibration(next(axes), calibration)
    figure.suptitle(title, fontsize=11)
    with atomic_file(path, TutorError) as file:
        figure.savefig(file, dpi=130, format="png")


def _plot_thresholds(axes: Axes, scores: Sequence[ThresholdScore]) -> None:
    """Even steps along x: thresholds span four decades and begin with none at all."""
    places = list(range(len(scores)))
    lines = {
        "mAP": ([s.map for s in scores], "C0", "o"),
        "precision": ([s.precision for s in scores], "C1", "s"),
        "recall": ([s.recall for s in scores], "C2", "^"),
        "F1": ([s.f1 for s in scores], "C3", "D"),
    }
    for name, (values, colour, marker) in lines.items():
        axes.plot(places, values, color=colour, marker=marker, markersize=4, label=name)
    axes.set_ylim(0, 1.02)
    names = ["none" if s.threshold is None else f"{s.threshold:g}" for s in scores]
    axes.set_xticks(places, names)
    axes.set_xlabel("least confidence of the boxes")
    axes.set_ylabel("mAP, precision, recall, F1")
    axes.grid(alpha=0.3)
    counts = axes.twinx()
    counts.plot(places, [s.boxes for s in scores], color="0.5", linestyle="--", label="boxes")
    counts.set_yscale("log")
    counts.set_ylabel("boxes (dashed)", color="0.4")
    _legend_below(axes)
    axes.set_title("Detection tutor: confidence threshold", fontsize=10)


def _plot_calibration(axes: Axes, scores: Sequence[CalibrationScore]) -> None:
    swept = [s for s in scores if s.temperature is not None]
    places = [s.temperature or 0.0 for s in swept]
    measures = {
        "cross-entropy (nats)": ("cross_entropy", "C0"),
        "calibration error": ("calibration_error", "C1"),
        "Brier": ("brier", "C2"),
        "entropy (nats)": ("entropy", "C3"),
    }
    for name, (attribute, colour) in measures.items():
        values = [getattr(s, attribute) for s in swept]
        axes.plot(places, values, color=colour, marker="o", markersize=4, label=name)
        for score in scores:
            if score.temperature is None:
                axes.axhline(getattr(score, attribute), color=colour, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.05, 0.1, 0.25, 0.4, 0.75, 1, 2]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("temperature T of softmax(v / T)")
    axes.set_ylabel("mean over pixels")
    axes.grid(alpha=0.3)
    _legend_below(axes)
    axes.set_title("Label vectors: temperature (dotted: background form)", fontsize=10)


def _legend_below(axes: Axes) -> None:
    """Under the panel, where it hides no line."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, ncols=4)
