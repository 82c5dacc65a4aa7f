"""A tutor that is an export with its sidecar beside it, whatever engine runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.cache.format.record import MASK_SIDE
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.classes.names import check_class_names, describe_class_names
from kdcli.tutor_gen.classes.words import label_ids, whose
from kdcli.tutor_gen.exported.detections import Detected, read_detections
from kdcli.tutor_gen.exported.engine import Engine, FailedError
from kdcli.tutor_gen.exported.frame import Frame, check_frame
from kdcli.tutor_gen.exported.masks import flat_masks, mask_frame, to_original
from kdcli.tutor_gen.exported.prototypes import masks_of_prototypes
from kdcli.tutor_gen.exported.sidecar import Sidecar
from kdcli.tutor_gen.exported.values import Values
from kdcli.tutor_gen.tutors.preparation import Prepared
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.tutor_gen.tutors.tutor import Instances


class ExportedTutor:
    """An export behind the `tutor_gen.tutors.tutor.PreparingTutor` protocol.

    Exports take images one by one, whatever the batch. An export's own threshold and limit of
    detections hold; a lower floor brings no more boxes. Where it leaves the choice to us, those of
    the settings do.

    Args:
        path: the export's file.
        sidecar: how to use it.
        engine: what runs it.
        settings: how it is run; its size and its precision are the export's own.

    Raises:
        TutorError: the sidecar names no masks where they are wanted, or none of the labels; or the
            export wants bytes and the sidecar says otherwise.
    """

    def __init__(
        self, path: Path, sidecar: Sidecar, engine: Engine, settings: ModelSettings
    ) -> None:
        self._path = path
        self._input, self._output = sidecar.input, sidecar.output
        self._engine = engine
        self._settings = settings
        self._device = torch.device(settings.device)
        self._mask_frame = self._output.mask_frame
        if settings.masks and not self._output.gives_masks:
            raise TutorError(f"{path} gives boxes only; a segmentation tutor needs masks")
        if engine.takes_bytes and (self._input.scale != 1 or self._input.mean or self._input.std):
            raise TutorError(
                f"{path} wants bytes: in {sidecar_path(path)}, [input] scale is 1, without mean "
                "and std"
            )
        self.preparation = self._input.preparation
        names = self._output.class_names
        where = f"{sidecar_path(path)}, [output] classes"
        remedy = f"Say in {where}, which are {whose(settings.labels)}"
        check_class_names(str(path), names.values(), remedy, settings.labels)
        self._ids = np.zeros(max(names) + 1, dtype=np.uint8)
        self._ids[list(names)] = label_ids(names.values(), settings.labels)
        self._description = {
            "kind": engine.kind,
            "name": path.name,
            **_digests(path),
            "masks": settings.masks,
            **describe(sidecar, settings),
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
        frame = Frame.of(self.preparation, (prepared.height, prepared.width))
        try:
            returned = self._engine(self._fed(prepared), self._input.container)
        except FailedError as error:
            raise TutorError(
                f"{self._path} failed on its input ({error}); is 'container' right in its sidecar, "
                "and 'layout', 'size'?"
            ) from None
        return self._as_instances(Values(self._path, self._output, returned), frame)

    def _fed(self, prepared: Prepared) -> torch.Tensor:
        """The image as the export wants it, but for the container."""
        pixels = prepared.pixels.to(self._device, non_blocking=True)
        if self._input.layout == "CHW":
            pixels = pixels.permute(2, 0, 1).contiguous()
        pixels = pixels.float() * self._input.scale
        shape = (3, 1, 1) if self._input.layout == "CHW" else (3,)
        if self._input.mean:
            pixels -= torch.tensor(self._input.mean, device=self._device).view(shape)
        if self._input.std:
            pixels /= torch.tensor(self._input.std, device=self._device).view(shape)
        return pixels

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


def _digests(path: Path) -> dict[str, str]:
    """The file's digest, and that of the one that PyTorch writes beside it for large weights."""
    beside = path.with_name(f"{path.name}.data")
    data = {"data_sha256": sha256_file(beside)} if beside.is_file() else {}
    return {"weights_sha256": sha256_file(path), **data}


def describe(sidecar: Sidecar, settings: ModelSettings) -> dict[str, Any]:
    """Return what a sidecar says, for a description: where it is not said, nothing.

    Where the detections are chosen by the settings, these decide, too.
    """
    given, returned = sidecar.input, sidecar.output
    always = {
        "channels": given.channels,
        "scale": given.scale,
        "short_side": given.short_side,
        "long_side": given.long_side,
        "box_frame": returned.box_frame,
        "class_names": {str(number): name for number, name in returned.class_names.items()},
        **describe_class_names(returned.class_names.values(), settings.labels),
        "lowest_confidence": returned.lowest_confidence,
    }
    names = ("layout", "mean", "std", "size", "fit", "image_at", "fill")
    said = _said(given, names) | _said(returned, ("mask_frame", "box_format", "clip", "nms"))
    if returned.objectness is not None:
        said["objectness"] = str(returned.objectness)
    if returned.chooses:
        said["score_threshold"] = settings.score_threshold
        said["detections_per_image"] = settings.detections_per_image
    return always | said


def _said(part: Any, names: Sequence[str]) -> dict[str, Any]:
    """Fields that are not as they are by default."""
    defaults = {field.name: field.default for field in fields(part)}
    values = {name: getattr(part, name) for name in names}
    said = {name: value for name, value in values.items() if value != defaults[name]}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in said.items()}
