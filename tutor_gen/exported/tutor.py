"""Tutors that are exports with their sidecars beside them, whatever engine runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.record import MASK_SIDE
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.class_list import ids_of_numbers
from kdcli.tutor_gen.exported.detections import Detected, read_detections
from kdcli.tutor_gen.exported.export import Export, said
from kdcli.tutor_gen.exported.frame import Frame, check_frame
from kdcli.tutor_gen.exported.masks import flat_masks, mask_frame, to_original
from kdcli.tutor_gen.exported.prototypes import masks_of_prototypes
from kdcli.tutor_gen.exported.sidecar import Output
from kdcli.tutor_gen.exported.values import Values
from kdcli.tutor_gen.tutors.preparation import Prepared
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Instances


class ExportedTutor:
    """An export behind the `tutor_gen.tutors.tutor.PreparingTutor` protocol.

    Exports take images one by one, whatever the batch. An export's own threshold and limit of
    detections hold; a lower floor brings no more boxes. Where it leaves the choice to us, those of
    the settings do.

    Args:
        export: what is run.
        output: how to read what it returns.
        settings: how it is run; its size and its precision are the export's own.

    Raises:
        TutorError: the sidecar names no masks where they are wanted, or none of the labels.
    """

    def __init__(self, export: Export, output: Output, settings: ModelSettings) -> None:
        if settings.masks and not output.gives_masks:
            raise TutorError(f"{export.path} gives boxes only; a segmentation tutor needs masks")
        self._export = export
        self._path = export.path
        self._output = output
        self._settings = settings
        self._mask_frame = output.mask_frame
        self.preparation = export.preparation
        self._ids = ids_of_numbers(export.path, "output", output.class_names, settings.labels)
        self._description = {
            **export.describe(output.class_names, settings.labels),
            "masks": settings.masks,
            **_describe(output, settings),
        }

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, the file's digest and the sidecar's content."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Label images, each (H, W, 3) uint8 RGB.

        Raises:
            TutorError: the export fails, or returns something else than the sidecar says.
        """
        return self.predict_prepared([self.preparation(image) for image in images])

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Instances]:
        """Label prepared images; see `PreparingTutor`. Errors as `predict`."""
        return [self._predict_one(each) for each in prepared]

    def _predict_one(self, prepared: Prepared) -> Instances:
        values = Values(self._path, self._output, self._export(prepared))
        return self._as_instances(values, self._export.frame(prepared))

    def _as_instances(self, values: Values, frame: Frame) -> Instances:
        found = read_detections(values, self._ids, self._settings)
        if self._output.box_frame == "input":
            check_frame(self._path, found.boxes, found.scores, frame.given)
        boxes = frame.boxes(found.boxes, self._output.box_frame)
        if self._output.clip:
            height, width = frame.original
            boxes = boxes.clip(0, np.array([width, height] * 2, dtype=np.float32))
        numbers = found.numbers
        known = (numbers >= 0) & (numbers < len(self._ids))
        labels = np.where(known, self._ids[np.where(known, numbers, 0)], 0).astype(np.uint8)
        masks = own = None
        if self._settings.masks:
            masks, own = self._masks(values, found, boxes, frame)
        instances = Instances(boxes, labels, found.scores, masks, mask_probabilities=own)
        order = np.argsort(-found.scores, kind="stable")
        return instances.select(order, "order").select(labels[order] > 0, "class")

    def _masks(
        self, values: Values, found: Detected, boxes: NDArray[np.float32], frame: Frame
    ) -> tuple[Any, NDArray[np.float32] | None]:
        """Masks at the original's size and, if they are to be kept, its own over the boxes."""
        soft = self._settings.form.masks == "soft"
        if self._output.masks is None:
            self._refuse_to_keep("made of prototypes")
            return masks_of_prototypes(values, found, boxes, frame, soft=soft), None
        flat = flat_masks(self._path, values.tensor(self._output.masks), found.count)
        if self._output.chooses:
            flat = flat[found.rows]
        if soft and not flat.is_floating_point():
            raise TutorError(
                f"{self._path} gives masks that are no probabilities; generate without "
                "--label-masks soft"
            )
        # What one image tells holds for all.
        self._mask_frame = mask_frame(self._path, flat, frame.given, self._mask_frame)
        side = flat.shape[1:]
        if len(flat) and (self._mask_frame, *side) != ("box", MASK_SIDE, MASK_SIDE):
            self._refuse_to_keep(f"of {side[0]} x {side[1]}")
        masks = to_original(flat, self._mask_frame, boxes, frame, soft=soft)
        if not self._settings.keep_masks:
            return masks, None
        return masks, flat.reshape(-1, MASK_SIDE, MASK_SIDE).float().numpy()

    def _refuse_to_keep(self, what: str) -> None:
        if self._settings.keep_masks:
            raise TutorError(
                f"{self._path} gives masks {what}; --keep-masks stores probabilities of "
                f"{MASK_SIDE} x {MASK_SIDE}, each over its box. Generate without it, or export the "
                "model's masks before they are pasted"
            )


def _describe(output: Output, settings: ModelSettings) -> dict[str, Any]:
    """What a sidecar says of the detections; where they are chosen by the settings, these, too."""
    described = {
        "box_frame": output.box_frame,
        "lowest_confidence": output.lowest_confidence,
        **said(output, ("mask_frame", "box_format", "clip", "nms")),
    }
    if output.objectness is not None:
        described["objectness"] = str(output.objectness)
    if output.chooses:
        described["score_threshold"] = settings.score_threshold
        described["detections_per_image"] = settings.detections_per_image
    return described
