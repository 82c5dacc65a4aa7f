"""A tutor that is one of torchvision's detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.models.detection.roi_heads import paste_masks_in_image

from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.torchvision.outputs import (
    decide_in_float32,
    keep_distributions,
    keep_masks_unpasted,
)
from kdcli.tutor_gen.torchvision.preparation import InsideModel
from kdcli.tutor_gen.tutors.device import autocast
from kdcli.tutor_gen.tutors.distributions import label_part
from kdcli.tutor_gen.tutors.preparation import Prepared
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Instances


class TorchvisionTutor:
    """A torchvision detector behind the `tutor_gen.tutors.tutor.PreparingTutor` protocol.

    `predict` says what ``model([image])`` says of the image as floats 0..1: the model resizes and
    normalises by itself. Class numbers are its own, 0 the background.

    Args:
        model: of `tutor_gen.torchvision.model.load_model`, with its thresholds set; a Mask R-CNN
            only where masks are wanted.
        class_names: what its class numbers mean.
        description: provenance, see `tutor_gen.tutors.tutor.Tutor`.
        settings: how it is run.

    Raises:
        TutorError: distributions are wanted that the model does not make.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        description: Mapping[str, Any],
        settings: ModelSettings,
    ) -> None:
        self._model = model
        self._description = dict(description)
        self._ids = np.array(label_ids(class_names, settings.labels), dtype=np.uint8)
        self._settings = settings
        self._device = torch.device(settings.device)
        self._distributions: list[torch.Tensor] | None = None
        if settings.masks:
            keep_masks_unpasted(model)
            if settings.form.classes == "full":
                self._distributions = keep_distributions(model, str(description["name"]))
        if settings.amp:
            decide_in_float32(model)
        self.preparation = InsideModel.of(model.transform)

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, weights' digest and settings."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Label images, each (H, W, 3) uint8 RGB; boxes and masks in the given images' pixels."""
        return [self.predict_prepared([self.preparation(image)])[0] for image in images]

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[Instances]:
        """Label prepared images in one pass; see `tutor_gen.tutors.tutor.PreparingTutor`."""
        with torch.inference_mode():
            pixels = [each.pixels.to(self._device, non_blocking=True) for each in prepared]
            with autocast(self._device, self._settings.amp):
                found = self._model([each.permute(2, 0, 1).float() / 255 for each in pixels])
            for one, spread in zip(found, self._distributions or (), strict=False):
                one["distributions"] = spread
            return [
                self._as_instances(one, each.height, each.width)
                for one, each in zip(found, prepared, strict=True)
            ]

    def _as_instances(
        self, found: Mapping[str, torch.Tensor], height: int, width: int
    ) -> Instances:
        numbers = found["labels"].cpu().numpy()
        masks = own = distributions = None
        if self._settings.masks:
            soft = self._settings.form.masks == "soft"
            masks = paste(found["masks"].float(), found["boxes"], height, width, soft=soft)
        if self._settings.keep_masks:
            own = found["masks"][:, 0].float().cpu().numpy()
        if "distributions" in found:
            probabilities = found["distributions"].float().cpu().numpy()
            distributions = label_part(
                probabilities, numbers, self._ids, self._settings.labels.size
            )
        everything = Instances(
            boxes=found["boxes"].float().cpu().numpy(),
            labels=self._ids[numbers],
            scores=found["scores"].float().cpu().numpy(),
            masks=masks,
            mask_probabilities=own,
            distributions=distributions,
        )
        return everything.select(everything.labels > 0, "class")


def paste(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, *, soft: bool
) -> NDArray[np.bool_] | NDArray[np.uint8]:
    """Paste (n, 1, M, M) mask probabilities into (n, height, width) by torchvision's function.

    One by one: as floats of a large photograph they would not fit the memory all at once.

    Returns bool, those of at least 0.5; or if ``soft`` uint8, probability times 255, rounded down.
    """
    shape = (len(masks), height, width)
    pasted = np.zeros(shape, np.uint8) if soft else np.zeros(shape, np.bool_)
    for index in range(len(masks)):
        one = slice(index, index + 1)
        mask = paste_masks_in_image(masks[one], boxes[one], (height, width))[0, 0]
        pasted[index] = ((mask * 255).byte() if soft else mask >= 0.5).cpu().numpy()
    return pasted
