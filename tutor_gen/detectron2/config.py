"""Configurations of Detectron2 models: read without running anything, and of models that fit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import yaml

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.detectron2.door import META_ARCH_REGISTRY, CfgNode, get_cfg
from kdcli.tutor_gen.tutors.settings import ModelSettings

_WANTED = "a tutor is a Faster or Mask R-CNN, a RetinaNet or a Panoptic FPN"
_GIVES = {
    "SemanticSegmentor": "a class for each pixel but no objects",
    "ProposalNetwork": "regions without classes",
}
_ROTATED = {"RotatedAnchorGenerator", "RRPN", "RROIHeads"}


def read_config(path: Path, settings: ModelSettings) -> CfgNode:
    """Read a configuration file and lay ``settings`` over it.

    Raises:
        TutorError: no Detectron2 configuration, or one of a model that gives no upright boxes of
            classes, or no masks where they are wanted.
    """
    config = get_cfg()
    # Detectron2's own are as trustworthy as its code, and one of them computes its anchors.
    own = zoo.is_own(path)
    if own:
        logging.getLogger("fvcore.common.config").setLevel(logging.ERROR)
    else:
        _check_content(path)
    try:
        config.merge_from_file(str(path), allow_unsafe=own)
    except Exception as error:
        raise _no_configuration(path, _reason(error)) from None
    _check_kind(path, config)
    has_masks = config.MODEL.MASK_ON and config.MODEL.META_ARCHITECTURE != "RetinaNet"
    if settings.masks and not has_masks:
        raise TutorError(
            f"{path.name} gives boxes only; a segmentation tutor needs masks, as a Mask R-CNN has"
        )
    config.MODEL.MASK_ON = settings.masks
    config.MODEL.DEVICE = settings.device
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.score_threshold
    config.MODEL.RETINANET.SCORE_THRESH_TEST = settings.score_threshold
    config.TEST.DETECTIONS_PER_IMAGE = settings.detections_per_image
    if settings.min_size is not None:
        config.INPUT.MIN_SIZE_TEST = settings.min_size
    return config


def _check_content(path: Path) -> None:
    """Say what a YAML file is that is no configuration of Detectron2."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise _no_configuration(path, _reason(error)) from None
    if not isinstance(content, Mapping):
        raise _no_configuration(path, f"expected keys such as MODEL, got {content!r:.60}")
    keys = [str(key) for key in content]
    if any(key.isupper() for key in keys):
        return
    shown = ", ".join(keys[:6])
    model = content.get("model")
    if isinstance(model, Mapping) and "_target_" in model:
        reason = f"it is a LazyConfig saved as YAML (keys {shown}), a program that kdcli runs not"
    else:
        reason = f"its keys are {shown}, Detectron2's are MODEL, INPUT and the like"
    raise _no_configuration(path, f"{reason}; export another tool's model to TorchScript")


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.constructor.ConstructorError):
        # Unsafe YAML may call any function.
        return f"{error.problem}, which would run code; write the value itself in its place"
    return str(error).strip() or type(error).__name__


def _no_configuration(path: Path, reason: str) -> TutorError:
    return TutorError(f"{path} is not a Detectron2 configuration: {reason}")


def _check_kind(path: Path, config: CfgNode) -> None:
    """Refuse what is known to give something else than a tutor says, before weights are read."""
    model = config.MODEL
    kind = model.META_ARCHITECTURE
    parts = {model.ANCHOR_GENERATOR.NAME, model.PROPOSAL_GENERATOR.NAME, model.ROI_HEADS.NAME}
    problem = None
    if kind in _GIVES:
        problem = f"is a {kind}, which gives {_GIVES[kind]}"
    elif kind not in META_ARCH_REGISTRY:
        problem = f"is a {kind}, which Detectron2 alone does not know"
    elif parts & _ROTATED:
        problem = f"gives rotated boxes ({', '.join(sorted(parts & _ROTATED))}), VOC's are upright"
    elif model.LOAD_PROPOSALS or "PrecomputedProposals" in parts:
        problem = "is a Fast R-CNN, which wants another network's regions with each image"
    elif config.INPUT.FORMAT not in ("BGR", "RGB"):
        problem = f"wants its images as {config.INPUT.FORMAT}, tutors get them as BGR or RGB"
    if problem:
        raise TutorError(f"{path} {problem}; {_WANTED}")
