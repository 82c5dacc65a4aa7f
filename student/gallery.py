"""A student's predictions as pictures: one row an image on one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from student.inference import read_image
from student.predict import PredictionFiles
from voc.devkit import Devkit
from voc.draw import enlarged
from voc.gallery import Panel, Row, ground_truth_panels, panel_scale, write_gallery


def write_prediction_gallery(
    path: Path, run: Path, files: Sequence[PredictionFiles], devkit: Devkit | None
) -> None:
    """Write all predictions as one HTML page."""
    facts = {"student": str(run), "images": str(len(files))}
    write_gallery(path, "What the student says", facts, prediction_rows(files, devkit))


def prediction_rows(files: Iterable[PredictionFiles], devkit: Devkit | None) -> Iterator[Row]:
    """Show each prediction, beside the ground truth where ``devkit`` has it."""
    for prediction in files:
        panels = [Panel("student", read_image(prediction.overlay))]
        if devkit is not None:
            image = devkit.read_image(prediction.image_id)
            panels.insert(0, Panel("photograph", enlarged(image, panel_scale(image))))
            panels += ground_truth_panels(devkit, prediction.image_id, image)
        yield Row(prediction.image_id, "", tuple(panels))
