"""torchvision's models and their weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.common.torch_file import read_torch_file, reason
from kdcli.tutor_gen.classes.names import check_class_names
from kdcli.tutor_gen.classes.words import whose
from kdcli.tutor_gen.tutors.device import seeded
from kdcli.tutor_gen.tutors.sidecar import read_class_names, sidecar_path
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

_OF_OFFICIAL_WEIGHTS = {
    "fasterrcnn_resnet50_fpn": 0.0,
    "maskrcnn_resnet50_fpn": 0.0,
    "retinanet_resnet50_fpn": 0.0,
}
"""What torchvision adds to variances in the frozen norms of these models for their official
weights, and so for what was trained on from there; 1e-5 in all others."""


_UNUSED = "aux_classifier."
"""A second head of segmentation networks, for their training only."""


class Loaded(NamedTuple):
    """A model in evaluation mode, what its class numbers mean, and where its weights are from."""

    model: Any
    class_names: Sequence[str]
    origin: Mapping[str, str]


def load_model(name: str, weights: str, labels: LabelSet = VOC) -> Loaded:
    """Build one of torchvision's detectors or segmentation networks and fill it.

    Args:
        name: one of ``torchvision.models.list_models`` of these.
        weights: a name of its weights ("" for the default), a file, or ``random:SEED``.
        labels: what it is to label.

    Raises:
        TutorError: the weights cannot be had or read, or do not fit, or it knows none of the
            labels.
    """
    known = models.get_model_weights(name)
    label, _, member = weights.rpartition(".")
    official = not weights or (member in known.__members__ and label in ("", known.__name__))
    if not official and not weights.startswith("random:"):
        loaded = _from_file(name, Path(weights), known, labels)
        return loaded._replace(model=loaded.model.eval())
    chosen = known[member] if official and member else known.DEFAULT
    names = chosen.meta["categories"]
    check_class_names(f"torchvision:{name}", names, "Take another tutor", labels)
    if official:  # downloaded, maybe, and so only now
        loaded = _official(name, chosen)
    else:
        loaded = Loaded(_random(name, weights), names, {"weights": weights})
    return loaded._replace(model=loaded.model.eval())


def _official(name: str, weights: Any) -> Loaded:
    """Let torchvision download and check its weights, or take them from its cache."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    try:
        model = models.get_model(name, weights=weights)
    # No network, a wrong digest, a damaged file of the cache: it fails in many ways.
    except Exception as error:
        if file.exists():
            raise TutorError(f"{file} is damaged ({reason(error)}): delete it") from None
        raise TutorError(
            f"cannot download {weights.url} ({error}); download that file elsewhere and name it "
            "with --detection-weights or --segmentation-weights"
        ) from None
    origin = {"weights": repr(weights), "weights_sha256": sha256_file(file)}
    return Loaded(model, weights.meta["categories"], origin)


def _random(name: str, weights: str) -> nn.Module:
    with seeded(weights):
        return _empty(name)


def _empty(name: str, **how: Any) -> nn.Module:
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, **how)
    return model


def _from_file(name: str, path: Path, known: Any, labels: LabelSet) -> Loaded:
    if not path.is_file():
        near = difflib.get_close_matches(path.name, known.__members__, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise TutorError(
            f"the weights file {path} does not exist, and torchvision knows no such weights of "
            f"{name} (it knows {', '.join(known.__members__)}){hint}"
        )
    given = {key: value for key, value in _read(path).items() if not key.startswith(_UNUSED)}
    has_sidecar = sidecar_path(path).exists()
    names = read_class_names(path) if has_sidecar else known.DEFAULT.meta["categories"]
    where = f"Say in {sidecar_path(path)}, which are {whose(labels)}: class_names"
    check_class_names(f"torchvision:{name}", names, where, labels)
    model = _empty(name, num_classes=len(names))
    if not any(key.endswith("num_batches_tracked") for key in given):
        _freeze_norms(model, _OF_OFFICIAL_WEIGHTS.get(name, 1e-5))
    _fill(model, given, path, f"torchvision's {name} of {len(names)} classes")
    return Loaded(model, names, {"weights": path.name, "weights_sha256": sha256_file(path)})


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        content = read_torch_file(path)
    # A damaged file can fail in about any way; none of them deserves a traceback.
    except Exception as error:
        raise TutorError(
            f"{path} cannot be read as a file of PyTorch weights: {reason(error)}"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]  # as torchvision's own training script saves it
    if not isinstance(content, Mapping) or not all(map(torch.is_tensor, content.values())):
        raise TutorError(f"{path} holds no weights by name, as torch.save(model.state_dict(), ...)")
    return content


def _freeze_norms(module: nn.Module, eps: float) -> None:
    """Replace batch norms by torchvision's frozen ones.

    Models that start from trained weights have these; their files have no counters of batches.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps))
        else:
            _freeze_norms(child, eps)


def _fill(model: nn.Module, given: Mapping[str, torch.Tensor], path: Path, what: str) -> None:
    wanted = model.state_dict()
    for key, value in wanted.items():
        if key in given and given[key].shape != value.shape:
            raise TutorError(
                f"{path} does not fit {what}: expected {key} of shape {tuple(value.shape)}, got "
                f"{tuple(given[key].shape)}. If its classes are others, name them, the background "
                f'first, in {sidecar_path(path)}: class_names = ["background", "..."]'
            )
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted]
    if missing or unknown:
        lacks = f"lacks {len(missing)} of its weights, such as '{missing[0]}'" if missing else ""
        holds = f"holds {len(unknown)} others, such as '{unknown[0]}'" if unknown else ""
        raise TutorError(
            f"{path} does not fit {what}: it {' and '.join(filter(None, (lacks, holds)))}; it "
            "belongs to another model, or is a trunk only"
        )
    model.load_state_dict(given)
