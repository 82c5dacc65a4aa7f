"""Loading a Detectron2 tutor: from the model zoo, or any configuration and weights.

Import this module only where a Detectron2 tutor is wanted: it imports Detectron2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcli.cache.format.record import MASK_SIDE
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.names import check_class_names, describe_class_names
from kdcli.tutor_gen.classes.words import whose
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.detectron2.config import read_config
from kdcli.tutor_gen.detectron2.door import CfgNode, MetadataCatalog
from kdcli.tutor_gen.detectron2.model import download, load_model, weights_url
from kdcli.tutor_gen.detectron2.outputs import THINGS
from kdcli.tutor_gen.detectron2.tutor import Detectron2Tutor, no_own_masks
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.sidecar import read_class_names, sidecar_path
from kdcli.voc.labels import LabelSet


def from_zoo(name: str, weights: Path | str | None, settings: ModelSettings) -> Detectron2Tutor:
    """Load a model of the zoo; without ``weights`` Detectron2 downloads its official ones.

    Raises:
        TutorError: unknown name, no weights to be had, or weights that do not fit.
    """
    full_name = zoo.resolve(name)
    config = read_config(zoo.config_path(full_name), settings)
    names = _data_set_class_names(config)
    if len(names) != _number_of_classes(config):
        raise TutorError(f"{full_name}: Detectron2 does not say what its class numbers mean")
    check_class_names(full_name, names, "Take another tutor", settings.labels)
    where = weights or download(weights_url(full_name))
    return _load(full_name, config, names, where, settings)


def from_config(path: Path, weights: Path | str | None, settings: ModelSettings) -> Detectron2Tutor:
    """Load a model from a configuration file and a weights file.

    What the class numbers mean is taken from ``class_names`` in the sidecar (``<path>.toml``) if
    there is one, else from the data set that the configuration names, if Detectron2 knows it.

    Raises:
        TutorError: a file is missing or broken, the weights do not fit, or classes are unknown.
    """
    config = read_config(path, settings)
    if weights is None:
        raise TutorError(
            f"{path} needs a weights file: give it with --detection-weights or "
            "--segmentation-weights (or random:SEED for random weights)"
        )
    return _load(path.name, config, _class_names(path, config, settings.labels), weights, settings)


def _load(
    name: str,
    config: CfgNode,
    class_names: Sequence[str],
    weights: Path | str,
    settings: ModelSettings,
) -> Detectron2Tutor:
    if settings.keep_masks:
        _check_mask_side(name, config)
    model, origin = load_model(config, weights)
    described = _describe(config, class_names, settings.labels)
    description = {"kind": "detectron2", "name": name, **origin, **described}
    if settings.amp is not None:
        description["amp"] = settings.amp
    return Detectron2Tutor(
        config, model, class_names, description, settings.keep_masks, settings.form, settings.amp,
        settings.labels,
    )  # fmt: skip


def _check_mask_side(name: str, config: CfgNode) -> None:
    """Refuse what is known to give masks of another side, before anything is computed."""
    head = config.MODEL.ROI_MASK_HEAD
    side = 2 * int(head.POOLER_RESOLUTION)  # its one deconvolution doubles it
    if head.NAME == "MaskRCNNConvUpsampleHead" and side != MASK_SIDE:
        raise no_own_masks(name, f"its mask head gives {side} x {side}")


def _class_names(path: Path, config: CfgNode, labels: LabelSet) -> list[str]:
    """What the class numbers of a configuration file mean: sidecar first, then its data set."""
    has_sidecar = sidecar_path(path).exists()
    names = read_class_names(path) if has_sidecar else _data_set_class_names(config)
    expected = _number_of_classes(config)
    if len(names) != expected:
        raise TutorError(
            f"{path} has {expected} classes but {len(names)} class names are known; say what they "
            f'mean in {sidecar_path(path)}: class_names = ["...", ...]'
        )
    remedy = f"Say in {sidecar_path(path)} which are {whose(labels)}: class_names"
    check_class_names(str(path), names, remedy, labels)
    return names


def _data_set_class_names(config: CfgNode) -> list[str]:
    for data_set in (*config.DATASETS.TEST, *config.DATASETS.TRAIN):
        names = MetadataCatalog.get(data_set).get("thing_classes")
        if names:
            return list(names)
    return []


def _number_of_classes(config: CfgNode) -> int:
    if config.MODEL.META_ARCHITECTURE == "RetinaNet":
        return int(config.MODEL.RETINANET.NUM_CLASSES)
    return int(config.MODEL.ROI_HEADS.NUM_CLASSES)


def _describe(config: CfgNode, class_names: Sequence[str], labels: LabelSet) -> dict[str, Any]:
    """The settings that decide what the model says, and a digest of the whole configuration."""
    whole = config.clone()
    whole.MODEL.WEIGHTS = whole.MODEL.DEVICE = whole.OUTPUT_DIR = ""
    return {
        "class_names": list(class_names),
        **describe_class_names(class_names, labels),
        "min_size": int(config.INPUT.MIN_SIZE_TEST),
        "max_size": int(config.INPUT.MAX_SIZE_TEST),
        "score_threshold": float(config.MODEL.ROI_HEADS.SCORE_THRESH_TEST),
        "nms_threshold": float(config.MODEL.ROI_HEADS.NMS_THRESH_TEST),
        "detections_per_image": int(config.TEST.DETECTIONS_PER_IMAGE),
        "masks": bool(config.MODEL.MASK_ON),
        **_describe_panoptic(config),
        "config_sha256": hashlib.sha256(whole.dump().encode()).hexdigest(),
    }


def _describe_panoptic(config: CfgNode) -> dict[str, Any]:
    """What there is to say of a panoptic model's semantic head; nothing of others."""
    if config.MODEL.META_ARCHITECTURE != "PanopticFPN" or not config.MODEL.MASK_ON:
        return {}
    for data_set in (*config.DATASETS.TEST, *config.DATASETS.TRAIN):
        names = MetadataCatalog.get(data_set).get("stuff_classes")
        if names and names[THINGS] != "things":
            raise TutorError(
                f"the semantic classes of {data_set} have no 'things' at {THINGS}, which tell "
                "objects from background; a panoptic tutor needs a head trained with them"
            )
    return {"panoptic": {"semantic_classes": int(config.MODEL.SEM_SEG_HEAD.NUM_CLASSES)}}
