"""Ground truth boxes of many images, parsed once and kept in a few flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdcli.student.data.geometry import FloatArray
from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import Devkit


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

    def of(self, image_id: str) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Return an image's (n, 4) boxes and (n,) labels; none for an image that was not read."""
        place = self.places.get(image_id)
        rows = slice(0, 0) if place is None else slice(*self.offsets[place : place + 2])
        return self.boxes[rows], self.labels[rows].astype(np.int64)


def _kept(annotation: Annotation | None, difficult: bool) -> npt.NDArray[np.bool_]:
    if annotation is None:
        return np.zeros(0, bool)
    return np.ones(len(annotation.labels), bool) if difficult else ~annotation.difficult
