"""Loading a tutor of torchvision by its name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torchvision import models
from torchvision.models.detection import FasterRCNN, MaskRCNN

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.names import describe_class_names
from kdcli.tutor_gen.torchvision.dense import load_dense
from kdcli.tutor_gen.torchvision.model import load_model
from kdcli.tutor_gen.torchvision.tutor import TorchvisionTutor
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.labels import LabelSet


def from_name(name: str, weights: str, settings: ModelSettings) -> Tutor:
    """Load one of torchvision's models.

    Args:
        name: as torchvision's ``get_model`` knows it.
        weights: see `tutor_gen.torchvision.model.load_model`.
        settings: how it is run.

    Raises:
        TutorError: torchvision has no such model, or it cannot be loaded or do what is wanted.
    """
    if name in models.list_models(models.segmentation):
        return load_dense(name, weights, settings)
    _check_name(name, settings)
    loaded = load_model(name, weights, settings.labels)
    model, names = loaded.model, loaded.class_names
    _lay_over(name, model, settings)
    described = _describe(model, names, settings.labels)
    description = {"kind": "torchvision", "name": name, **loaded.origin, **described}
    if settings.amp is not None:
        description["amp"] = settings.amp
    return TorchvisionTutor(model.to(settings.device), names, description, settings)


def _check_name(name: str, settings: ModelSettings) -> None:
    detectors = models.list_models(models.detection)
    dense = models.list_models(models.segmentation)
    usable = [each for each in detectors if not each.startswith("keypointrcnn")]
    if name in usable:
        if settings.masks and not name.startswith("maskrcnn"):
            raise TutorError(
                f"torchvision:{name} gives boxes only; a segmentation tutor needs masks, as "
                "torchvision:maskrcnn_resnet50_fpn_v2 has"
            )
        return
    if name in detectors:
        problem = "finds people and their joints, no other of VOC's classes"
    elif name in models.list_models():
        problem = "gives neither boxes nor a class of every pixel"
    else:
        near = difflib.get_close_matches(name, [*usable, *dense], n=1)
        problem = "is unknown to the torchvision installed here"
        problem += f"; did you mean {near[0]}?" if near else ""
    raise TutorError(f"torchvision:{name} {problem}. Its tutors are {', '.join([*usable, *dense])}")


def _lay_over(name: str, model: Any, settings: ModelSettings) -> None:
    """Lay settings over a model's own."""
    decides = _decides(model)
    decides.score_thresh = settings.score_threshold
    decides.detections_per_img = settings.detections_per_image
    if settings.min_size is not None:
        if model.transform.fixed_size is not None:
            height, width = model.transform.fixed_size[::-1]
            raise TutorError(
                f"torchvision:{name} resizes every image to {width} x {height}; drop --min-size"
            )
        model.transform.min_size = (settings.min_size,)
    if isinstance(model, MaskRCNN) and not settings.masks:
        model.roi_heads.mask_roi_pool = None  # it then runs as a Faster R-CNN


def _decides(model: Any) -> Any:
    """The part of a model that chooses its detections."""
    return model.roi_heads if isinstance(model, FasterRCNN) else model


def _describe(model: Any, class_names: Sequence[str], labels: LabelSet) -> Mapping[str, Any]:
    """The settings that decide what the model says."""
    transform, decides = model.transform, _decides(model)
    size = {"min_size": transform.min_size[-1], "max_size": transform.max_size}
    if transform.fixed_size is not None:
        size = {"size": list(transform.fixed_size[::-1])}
    return {
        "class_names": list(class_names),
        **describe_class_names(class_names, labels),
        **size,
        "score_threshold": decides.score_thresh,
        "nms_threshold": decides.nms_thresh,
        "detections_per_image": decides.detections_per_img,
        "masks": isinstance(model, MaskRCNN) and model.roi_heads.has_mask(),
    }
