"""Tutors that are exports and give a class of every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.exported.class_list import ids_of_numbers
from kdcli.tutor_gen.exported.export import Export
from kdcli.tutor_gen.exported.frame import Frame
from kdcli.tutor_gen.exported.returned import Returned
from kdcli.tutor_gen.exported.semantic import Semantic, class_probabilities
from kdcli.tutor_gen.labels.dense import to_labels
from kdcli.tutor_gen.tutors.preparation import Prepared
from kdcli.tutor_gen.tutors.tutor import SemanticOutput
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet


class DenseExport:
    """An export behind the `tutor_gen.tutors.tutor.PreparingTutor` protocol, as a dense tutor.

    Args:
        export: what is run.
        semantic: how to read what it returns.
        labels: what it is to label.

    Raises:
        TutorError: the sidecar names none of the labels.
    """

    def __init__(self, export: Export, semantic: Semantic, labels: LabelSet = VOC) -> None:
        self._export = export
        self._semantic = semantic
        self.preparation = export.preparation
        self._ids = ids_of_numbers(export.path, "semantic", semantic.class_names, labels)
        self._classes = labels.size
        self._description = {
            **export.describe(semantic.class_names, labels),
            "semantic": f"{semantic.values} at '{semantic.at}'",
        }

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, the file's digest and the sidecar's content."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[SemanticOutput]:
        """Label images, each (H, W, 3) uint8 RGB.

        Raises:
            TutorError: the export fails, or returns something else than the sidecar says.
        """
        return self.predict_prepared([self.preparation(image) for image in images])

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[SemanticOutput]:
        """Label prepared images; see `PreparingTutor`. Errors as `predict`."""
        return [self._predict_one(each) for each in prepared]

    def _predict_one(self, prepared: Prepared) -> SemanticOutput:
        semantic = self._semantic
        value = self._export(prepared)
        returned = Returned(self._export.path, value, semantic.path, semantic.batched)
        cells = class_probabilities(returned, semantic, len(self._ids))
        window = _window(self._export.frame(prepared), *cells.shape[1:])
        return SemanticOutput(to_labels(cells, self._ids, self._classes), window)


def _window(frame: Frame, rows: int, columns: int) -> NDArray[np.float32]:
    """Where in rows x columns cells that cover the input the photograph lies, x1 y1 x2 y2."""
    top, left, height, width = frame.window
    pixels = np.array([left, top, left + width, top + height])
    size = np.array([frame.given[1], frame.given[0]] * 2)
    window: NDArray[np.float32] = (pixels * np.array([columns, rows] * 2) / size).astype(np.float32)
    return window
