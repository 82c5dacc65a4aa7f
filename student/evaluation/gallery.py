"""A student's predictions as pictures: one row an image on one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kdcli.common.files import atomic_file
from kdcli.student.data.geometry import UInt8Array
from kdcli.student.evaluation.engine import Engine
from kdcli.student.evaluation.inference import infer_arrays
from kdcli.student.evaluation.predict import PredictionFiles, drawn
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_picture
from kdcli.voc.labels import LabelSet
from kdcli.voc.view.gallery import (
    Panel,
    Row,
    draw_ground_truth,
    ground_truth_panels,
    panel_scale,
    write_gallery,
)
from kdcli.voc.view.overlay import enlarged, overlay


def write_prediction_gallery(
    path: Path,
    run: Path,
    files: Sequence[PredictionFiles],
    labels: LabelSet,
    devkit: Devkit | None,
    folder: str | None = None,
) -> None:
    """Write all predictions as one HTML page, beside the ground truth where ``devkit`` has it.

    Args:
        path: The page.
        run: The student's.
        files: The predictions.
        labels: The student's.
        devkit: Of the photographs, if they are of one.
        folder: Of the class masks; see ``ground_truth_panels``.
    """
    facts = {"student": str(run), "images": str(len(files))}
    rows = prediction_rows(files, devkit, folder)
    with atomic_file(path) as file:
        write_gallery(file, "What the student says", facts, rows, labels)


def beside_ground_truth(
    engine: Engine,
    devkit: Devkit,
    image_ids: Sequence[str],
    folder: str,
    threshold: float = 0.5,
) -> dict[str, UInt8Array]:
    """Return a picture of each image: ground truth to the left, the student's word to the right.

    Args:
        engine: The student.
        devkit: Photographs and ground truth.
        image_ids: Which images.
        folder: Of the class masks.
        threshold: Confidence that a box must have to be drawn.
    """
    images = [devkit.read_image(image_id) for image_id in image_ids]
    pictures = {}
    for name, image, prediction in zip(
        image_ids, images, infer_arrays(engine, images), strict=True
    ):
        said = drawn(prediction, threshold)
        true, _ = draw_ground_truth(devkit, name, image, folder, objects="masks" in said)
        own = overlay(image, **said, label_set=devkit.labels, scale=panel_scale(image))
        pictures[name] = np.concatenate([true, own], axis=1)
    return pictures


def prediction_rows(
    files: Iterable[PredictionFiles], devkit: Devkit | None, folder: str | None = None
) -> Iterator[Row]:
    """Show each prediction; the arguments are those of ``write_prediction_gallery``."""
    for prediction in files:
        panels = [Panel("student", read_picture(prediction.overlay))]
        if devkit is not None:
            image = devkit.read_image(prediction.image_id)
            panels.insert(0, Panel("photograph", enlarged(image, panel_scale(image))))
            panels += ground_truth_panels(devkit, prediction.image_id, image, folder)
        yield Row(prediction.image_id, "", tuple(panels))
