"""Images over which stores differ, as pictures beside each other and the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.tutor_gen.comparison.agreement import ImageDifference
from kdcli.tutor_gen.comparison.compare import StoreScores
from kdcli.tutor_gen.comparison.said import said_by_store
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import LabelSet
from kdcli.voc.view.gallery import Panel, Row, ground_truth_panels, panel_scale
from kdcli.voc.view.overlay import enlarged, overlay


def difference_rows(
    stores: Sequence[StoreScores],
    devkit: Devkit,
    differences: Sequence[ImageDifference],
    mask_folder: str,
) -> Iterator[Row]:
    """Draw images: the ground truth, or else the photograph, and what each store says."""
    for each in differences:
        image = devkit.read_image(each.image_id)
        first = ground_truth_panels(devkit, each.image_id, image, mask_folder)
        if not first:
            first = (Panel("photograph", enlarged(image, panel_scale(image))),)
        panels = (_panel(store, each.image_id, image, devkit.labels) for store in stores)
        yield Row(each.image_id, _note(each), (*first, *panels))


def _note(difference: ImageDifference) -> str:
    parts = []
    if difference.pixels:
        parts.append(f"another class on {difference.pixels:.0%} of the pixels")
    if difference.boxes:
        boxes = f"{difference.unmatched} of {difference.boxes} boxes"
        parts.append(f"{boxes} without a counterpart")
    return "; ".join(parts)


def _panel(store: StoreScores, image_id: str, image: NDArray[np.uint8], labels: LabelSet) -> Panel:
    height, width = image.shape[:2]
    said = said_by_store(store.cache, image_id, store.thresholds, (height, width))
    boxes = Detections.none() if said.boxes is None else said.boxes
    picture = overlay(
        image, boxes.boxes, boxes.labels, boxes.scores, said.class_map,
        label_set=labels, scale=panel_scale(image),
    )  # fmt: skip
    parts = [
        *([] if said.boxes is None else [f"boxes from {store.thresholds.boxes:g}"]),
        *([] if said.class_map is None else [f"pixels from {store.thresholds.vectors:g}"]),
    ]
    return Panel(f"{store.name}: {', '.join(parts)}", picture)
