"""A tutor that is one of torchvision's networks for semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import models

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.names import describe_class_names
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.labels.dense import to_labels
from kdcli.tutor_gen.torchvision.model import load_model
from kdcli.tutor_gen.torchvision.preparation import ShortSide
from kdcli.tutor_gen.tutors.device import autocast
from kdcli.tutor_gen.tutors.preparation import Prepared
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import SemanticOutput

SEMANTIC = "softmax of the classifier's output, before it is enlarged to the input"


def load_dense(name: str, weights: str, settings: ModelSettings) -> DenseTutor:
    """Load one of torchvision's ``deeplabv3_...``, ``fcn_...`` and ``lraspp_...``.

    Args and errors as `tutor_gen.torchvision.load.from_name`.

    Raises:
        TutorError: it is to give boxes.
    """
    if not settings.masks:
        raise TutorError(
            f"torchvision:{name} gives a class for each pixel, no boxes: name it with "
            "--segmentation-tutor"
        )
    loaded = load_model(name, weights, settings.labels)
    preset = models.get_model_weights(name).DEFAULT.transforms()
    (short_side,) = preset.resize_size
    return DenseTutor(
        loaded.model.to(settings.device),
        loaded.class_names,
        {"kind": "torchvision", "name": name, **loaded.origin},
        ShortSide(short_side=settings.min_size or short_side),
        (preset.mean, preset.std),
        settings,
    )


class DenseTutor:
    """A torchvision segmentation network behind `tutor_gen.tutors.tutor.PreparingTutor`.

    It answers with what the network computes: probabilities of its cells, an eighth or a sixteenth
    of the input's size. ``model(image)["out"]`` is the same logits, enlarged to the input.

    Args:
        model: of `tutor_gen.torchvision.model.load_model`, on its device.
        class_names: what its class numbers mean; what is none of the labels is background.
        origin: kind, name and weights, for the description.
        preparation: the resize of the photograph.
        normalisation: mean and deviation of the channels, of 0..1.
        settings: how it is run.
    """

    def __init__(
        self,
        model: Any,
        class_names: Sequence[str],
        origin: Mapping[str, Any],
        preparation: ShortSide,
        normalisation: tuple[Sequence[float], Sequence[float]],
        settings: ModelSettings,
    ) -> None:
        self._model = model
        self._ids = np.array(label_ids(class_names, settings.labels))
        self._settings = settings
        self._device = torch.device(settings.device)
        self._mean, self._std = (
            torch.tensor(values, device=self._device).view(3, 1, 1) for values in normalisation
        )
        self.preparation = preparation
        self._description = {
            **origin,
            "class_names": list(class_names),
            **describe_class_names(class_names, settings.labels),
            "min_size": preparation.short_side,
            "semantic": SEMANTIC,
            **({} if settings.amp is None else {"amp": settings.amp}),
        }

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, weights' digest and settings."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[SemanticOutput]:
        """Label images, each (H, W, 3) uint8 RGB."""
        return [self.predict_prepared([self.preparation(image)])[0] for image in images]

    def predict_prepared(self, prepared: Sequence[Prepared]) -> list[SemanticOutput]:
        """Label prepared images of one size in one pass; see `PreparingTutor`."""
        with torch.inference_mode():
            pixels = [each.pixels.to(self._device, non_blocking=True) for each in prepared]
            images = torch.stack(pixels).permute(0, 3, 1, 2).contiguous().float() / 255
            with autocast(self._device, self._settings.amp):
                logits = self._logits(images.sub_(self._mean).div_(self._std))
            probabilities = torch.softmax(logits.float(), dim=1).cpu().numpy()
        classes = self._settings.labels.size
        return [SemanticOutput(to_labels(each, self._ids, classes)) for each in probabilities]

    def _logits(self, images: Tensor) -> Tensor:
        """(B, K, h, w) of the network's own cells."""
        features = self._model.backbone(images)
        if "out" in features:  # DeepLab, FCN
            features = features["out"]
        logits: Tensor = self._model.classifier(features)
        return logits
