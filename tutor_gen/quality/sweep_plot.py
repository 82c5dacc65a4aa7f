"""The sweeps of `quality.calibration` as one picture. Imports matplotlib, a second's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdcli.common.files import atomic_file
from kdcli.tutor_gen.quality.calibration import (
    CalibrationScore,
    ThresholdScore,
    VectorThresholdScore,
)
from kdcli.tutor_gen.quality.evaluate import TutorEvaluation

_SIZE = (6.4, 4.4)
"""Inches, of one panel."""


def plot_sweeps(path: Path, found: TutorEvaluation, title: str) -> None:
    """Write a PNG with a panel for each sweep that ``found`` has; one of them at least."""
    sweeps: list[tuple[Callable[..., None], Sequence[Any]]] = [
        (_plot_thresholds, found.thresholds),
        (_plot_vector_thresholds, found.vector_thresholds),
        (_plot_calibration, found.calibration),
    ]
    panels = [(draw, scores) for draw, scores in sweeps if scores]
    figure = Figure(figsize=(_SIZE[0] * len(panels), _SIZE[1]), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for each, (draw, scores) in zip(axes, panels, strict=True):
        draw(each, scores)
    figure.suptitle(title, fontsize=11)
    with atomic_file(path) as file:
        figure.savefig(file, dpi=130, format="png")


def _plot_thresholds(axes: Axes, scores: Sequence[ThresholdScore]) -> None:
    """Even steps along x: thresholds span four decades and begin with none at all."""
    places = _places(axes, [s.threshold for s in scores])
    lines = {
        "mAP": ([s.map for s in scores], "C0", "o"),
        "precision": ([s.precision for s in scores], "C1", "s"),
        "recall": ([s.recall for s in scores], "C2", "^"),
        "F1": ([s.f1 for s in scores], "C3", "D"),
    }
    for name, (values, colour, marker) in lines.items():
        axes.plot(places, values, color=colour, marker=marker, markersize=4, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("least confidence of the boxes")
    axes.set_ylabel("mAP, precision, recall, F1")
    axes.grid(alpha=0.3)
    counts = axes.twinx()
    counts.plot(places, [s.boxes for s in scores], color="0.5", linestyle="--", label="boxes")
    counts.set_yscale("log")
    counts.set_ylabel("boxes (dashed)", color="0.4")
    _legend_below(axes)
    axes.set_title("Detection tutor: confidence threshold", fontsize=10)


def _plot_vector_thresholds(axes: Axes, scores: Sequence[VectorThresholdScore]) -> None:
    places = _places(axes, [s.threshold for s in scores])
    lines = {
        "mIoU": ([s.miou for s in scores], "C0", "o"),
        "pixels that are right": ([s.pixel_accuracy for s in scores], "C2", "^"),
        "pixels that are not background": ([s.covered for s in scores], "0.5", "s"),
    }
    for name, (values, colour, marker) in lines.items():
        axes.plot(places, values, color=colour, marker=marker, markersize=4, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("least confidence of the label vectors' entries")
    axes.grid(alpha=0.3)
    _legend_below(axes)
    axes.set_title("Segmentation tutor: confidence threshold", fontsize=10)


def _places(axes: Axes, thresholds: Sequence[float | None]) -> list[int]:
    """Where the thresholds lie on the axis, in even steps, with their names."""
    places = list(range(len(thresholds)))
    axes.set_xticks(places, ["none" if t is None else f"{t:g}" for t in thresholds])
    return places


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
