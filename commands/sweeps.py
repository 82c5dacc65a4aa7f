"""What evaluate-tutors prints beside its scores: sweeps, and the thesis' tutors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from tabulate import tabulate

from kdcli.tutor_gen.quality import thesis
from kdcli.tutor_gen.quality.calibration import (
    BINS,
    LEAST_PROBABILITY,
    CalibrationScore,
    ThresholdScore,
    VectorThresholdScore,
)
from kdcli.tutor_gen.quality.evaluate import TutorEvaluation
from kdcli.voc.metrics.detection import percent


def print_thresholds(scores: Sequence[ThresholdScore], images: int, floor: object) -> None:
    """Print what is left of the boxes above each confidence, and how good that is.

    ``floor`` is the least confidence that the store kept.
    """
    rows = [
        (
            _threshold(s.threshold),
            f"{100 * s.map:.1f}",
            s.boxes,
            f"{s.boxes / images:.1f}",
            *(f"{100 * value:.1f}" for value in (s.precision, s.recall, s.f1)),
        )
        for s in scores
    ]
    header = ["threshold", "mAP %", "boxes", "an image", "precision %", "recall %", "F1 %"]
    click.echo(f"\nBoxes of at least a confidence (none: all in the store, from {floor})")
    click.echo(tabulate(rows, header, stralign="right", disable_numparse=True))


def print_vector_thresholds(scores: Sequence[VectorThresholdScore], floor: object) -> None:
    """Print how good the label vectors' classes are from each confidence.

    ``floor`` is the least confidence of the instances that made them.
    """
    rows = [
        (
            _threshold(s.threshold),
            *(f"{100 * value:.1f}" for value in (s.miou, s.pixel_accuracy, s.covered)),
        )
        for s in scores
    ]
    header = ["threshold", "mIoU %", "right pixels %", "not background %"]
    click.echo(f"\nLabel vectors' entries of at least a confidence (none: all, from {floor})")
    click.echo(tabulate(rows, header, stralign="right", disable_numparse=True))


def _threshold(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def print_calibration(scores: Sequence[CalibrationScore]) -> None:
    """Print how well the label vectors' distributions fit the pixels' classes."""
    rows = [
        (
            "background form" if s.temperature is None else f"T = {s.temperature:g}",
            f"{s.cross_entropy:.3f}",
            f"{s.calibration_error:.3f}",
            f"{s.brier:.3f}",
            f"{s.entropy:.3f}",
        )
        for s in scores
    ]
    header = ["distribution", "cross-entropy", "calibration error", "Brier", "entropy"]
    click.echo("\nsoftmax(label vector / T) against the pixels' classes")
    click.echo(tabulate(rows, header, stralign="right", disable_numparse=True))
    click.echo(
        f"Nats; probabilities below {LEAST_PROBABILITY:g} count as that; calibration error over "
        f"{BINS} bins.\nThe arg max, and so the IoU, is the same at every T. Background form: "
        "1 - max(v) where the tutor gave none, over the sum."
    )


def print_thesis(result: TutorEvaluation, list_name: str, image_ids: Sequence[str]) -> None:
    """Print the thesis' tutors beside these, where the images are the same ones."""
    if not thesis.comparable(list_name, image_ids):
        click.echo(
            f"\nNot compared with the thesis' tutors: that needs the complete VOC 2012 "
            f"{thesis.COMPARABLE_LIST} ({thesis.COMPARABLE_IMAGES:,} images), "
            f"this is {list_name} with {len(image_ids):,}."
        )
        return
    ours = (
        None if result.detection is None else result.detection.map,
        None if result.segmentation is None else result.segmentation.miou,
    )
    rows = [
        ("mAP %", percent(ours[0]), percent(thesis.DETECTION_MAP), "theirs on VOC 2012 test"),
        ("mIoU %", percent(ours[1]), percent(thesis.SEGMENTATION_MIOU), "same images"),
    ]
    click.echo("\n" + tabulate(rows, ["", "here", "thesis", ""], disable_numparse=True))


def sweeps_as_json(result: TutorEvaluation) -> dict[str, Any]:
    """Return the sweeps that were made as JSON values, None for what is not defined."""
    content: dict[str, Any] = {}
    if result.thresholds:
        content["thresholds"] = [_plain(asdict(s) | {"f1": s.f1}) for s in result.thresholds]
    if result.vector_thresholds:
        content["vector_thresholds"] = [_plain(asdict(s)) for s in result.vector_thresholds]
    if result.calibration:
        content["calibration"] = [_plain(asdict(s)) for s in result.calibration]
    return content


def _plain(value: Any) -> Any:
    """The same with None for nan, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
