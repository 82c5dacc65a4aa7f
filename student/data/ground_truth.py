"""Ground truth boxes of many images: parsed once and kept in a few flat arrays, or as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kdcli.student.data.geometry import FloatArray
from kdcli.student.data.targets import Rows, Targets
from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import Devkit

PARSED_BEFORE = 100_000
"""So many annotations are parsed before the first step: a quarter of a minute."""

Boxes = tuple[FloatArray, npt.NDArray[np.int64]]


class Truth(Protocol):
    """Ground truth boxes by image id."""

    def of(self, image_id: str) -> Boxes:
        """Return an image's (n, 4) boxes and (n,) labels."""


def read_truth(devkit: Devkit, rows: Targets, taught: Rows, difficult: bool) -> Truth:
    """Return the boxes of the rows that they teach: parsed now, or of very many as asked.

    Raises:
        DevkitError: An XML file is broken, or belongs to another picture.
    """
    if np.count_nonzero(taught) > PARSED_BEFORE:
        return TruthOnDemand(devkit, difficult)
    return GroundTruth.read(devkit, rows.ids(taught), difficult)


@dataclass(frozen=True)
class TruthOnDemand:
    """Boxes of images by id, from their XML files each time: a tenth of what a sample takes."""

    devkit: Devkit
    difficult: bool

    def of(self, image_id: str) -> Boxes:
        """See `Truth`; raises as `read_truth` does."""
        annotation = self.devkit.annotation(image_id)
        if annotation is None:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        keep = _kept(annotation, self.difficult)
        return annotation.boxes[keep], annotation.labels[keep]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Boxes and labels of images by id; of 17 bytes a box, so that a worker's copy costs nothing.

    Attributes:
        places: Position of each image in ``offsets``.
        offsets: (n + 1,) int64; image i has the rows ``offsets[i]`` to ``offsets[i + 1]``.
        boxes: (m, 4) float32 in pixels of the original images.
        labels: (m,) uint8.
    """

    places: dict[str, int]
    offsets: npt.NDArray[np.int64]
    boxes: FloatArray
    labels: npt.NDArray[np.uint8]

    @classmethod
    def read(cls, devkit: Devkit, image_ids: Sequence[str], difficult: bool) -> GroundTruth:
        """Parse the annotation of each image; one without an XML file gets no boxes.

        Raises:
            DevkitError: An XML file is broken, or belongs to another picture.
        """
        boxes, labels, counts = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.uint8)], [0]
        for image_id in image_ids:
            annotation = devkit.annotation(image_id)
            keep = _kept(annotation, difficult)
            counts.append(int(keep.sum()))
            if annotation is not None:
                boxes.append(annotation.boxes[keep])
                labels.append(annotation.labels[keep].astype(np.uint8))
        places = dict(zip(image_ids, range(len(image_ids)), strict=True))
        return cls(places, np.cumsum(counts), np.concatenate(boxes), np.concatenate(labels))

    def of(self, image_id: str) -> Boxes:
        """See `Truth`; none for an image that was not read."""
        place = self.places.get(image_id)
        rows = slice(0, 0) if place is None else slice(*self.offsets[place : place + 2])
        return self.boxes[rows], self.labels[rows].astype(np.int64)


def _kept(annotation: Annotation | None, difficult: bool) -> npt.NDArray[np.bool_]:
    if annotation is None:
        return np.zeros(0, bool)
    return np.ones(len(annotation.labels), bool) if difficult else ~annotation.difficult
