"""A tutor that is a Detectron2 model: from its model zoo, or any configuration and weights.

Import this module only where a Detectron2 tutor is wanted: it imports Detectron2.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutor_gen import _detectron2_v06, zoo
from tutor_gen.coco import voc_ids
from tutor_gen.errors import TutorError
from tutor_gen.safe_weights import (
    Checkpoint,
    check_named_digest,
    file_sha256,
    read_checkpoint,
)
from tutor_gen.sidecar import read_class_names, sidecar_path
from tutor_gen.tutor import Instances, ModelSettings

_detectron2_v06.apply()
with warnings.catch_warnings():  # Detectron2 uses names that PyTorch and setuptools deprecate
    warnings.simplefilter("ignore")
    from detectron2 import model_zoo
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import CfgNode, get_cfg
    from detectron2.data import MetadataCatalog
    from detectron2.data import transforms as T
    from detectron2.layers.mask_ops import paste_masks_in_image
    from detectron2.modeling import build_model
    from detectron2.utils.file_io import PathManager


class Detectron2Tutor:
    """A Detectron2 model behind the `tutor_gen.tutor.Tutor` protocol.

    Images go through the model one by one, exactly as Detectron2's own ``DefaultPredictor`` does
    it: shorter side resized, channels in the order the configuration states.
    """

    def __init__(
        self,
        config: CfgNode,
        model: torch.nn.Module,
        class_names: Sequence[str],
        description: Mapping[str, Any],
    ) -> None:
        self._model = model
        self._resize = T.ResizeShortestEdge(
            [config.INPUT.MIN_SIZE_TEST] * 2, config.INPUT.MAX_SIZE_TEST
        )
        self._bgr = config.INPUT.FORMAT == "BGR"
        self._masks = bool(config.MODEL.MASK_ON)
        self._voc_ids = np.array(voc_ids(class_names), dtype=np.uint8)
        self._description = dict(description)

    @property
    def description(self) -> Mapping[str, Any]:
        """Kind, name, weights' digest and settings."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        """Label images, each (H, W, 3) uint8 RGB; boxes and masks in the given images' pixels."""
        return [self._predict_one(image) for image in images]

    def _predict_one(self, image: NDArray[np.uint8]) -> Instances:
        height, width = image.shape[:2]
        # Detectron2 resizes by Pillow, which wants the channels contiguous.
        ordered = np.ascontiguousarray(image[..., ::-1]) if self._bgr else image
        resized = self._resize.get_transform(ordered).apply_image(ordered)
        pixels = torch.from_numpy(resized.astype(np.float32).transpose(2, 0, 1))
        with torch.inference_mode():
            (output,) = self._model([{"image": pixels, "height": height, "width": width}])
        return self._as_instances(output["instances"].to("cpu"))

    def _as_instances(self, found: Any) -> Instances:
        numbers = found.pred_classes.numpy()
        instances = Instances(
            boxes=found.pred_boxes.tensor.numpy().astype(np.float32),
            labels=self._voc_ids[numbers],
            confidences=found.scores.numpy().astype(np.float32),
            masks=found.pred_masks.numpy().astype(np.bool_) if self._masks else None,
        )
        return instances.select(instances.labels > 0, "class")


def from_zoo(name: str, weights: Path | str | None, settings: ModelSettings) -> Detectron2Tutor:
    """Load a model of the zoo; without ``weights`` Detectron2 downloads its official ones.

    Raises:
        TutorError: unknown name, no weights to be had, or weights that do not fit.
    """
    full_name = zoo.resolve(name)
    config = _read_config(zoo.config_path(full_name), settings)
    if weights is None:
        weights = _download(_weights_url(full_name))
    return _load(full_name, config, _zoo_class_names(full_name, config), weights)


def from_config(path: Path, weights: Path | str | None, settings: ModelSettings) -> Detectron2Tutor:
    """Load a model from a configuration file and a weights file.

    What the class numbers mean is taken from ``class_names`` in the sidecar (``<path>.toml``) if
    there is one, else from the data set that the configuration names, if Detectron2 knows it.

    Raises:
        TutorError: a file is missing or broken, the weights do not fit, or classes are unknown.
    """
    config = _read_config(path, settings)
    if weights is None:
        raise TutorError(
            f"{path} needs a weights file: give it with --detection-weights or "
            "--segmentation-weights (or random:SEED for random weights)"
        )
    return _load(path.name, config, _class_names(path, config), weights)


def _read_config(path: Path, settings: ModelSettings) -> CfgNode:
    config = get_cfg()
    try:
        # Not Detectron2's default: unsafe YAML may call any function.
        config.merge_from_file(str(path), allow_unsafe=False)
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise TutorError(f"{path} is not a Detectron2 configuration: {reason}") from None
    if settings.masks and not config.MODEL.MASK_ON:
        raise TutorError(
            f"{path.name} gives boxes only; a segmentation tutor needs masks, as a Mask R-CNN has"
        )
    config.MODEL.MASK_ON = settings.masks
    config.MODEL.DEVICE = settings.device
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = settings.floor
    config.MODEL.RETINANET.SCORE_THRESH_TEST = settings.floor
    config.TEST.DETECTIONS_PER_IMAGE = settings.detections_per_image
    if settings.min_size is not None:
        config.INPUT.MIN_SIZE_TEST = settings.min_size
    return config


def _load(
    name: str, config: CfgNode, class_names: Sequence[str], weights: Path | str
) -> Detectron2Tutor:
    """Build the model, fill it, describe it."""
    if str(weights).startswith("random:"):
        model, origin = _build_random(config, str(weights)), {"weights": str(weights)}
    else:
        path = Path(weights)
        checkpoint = read_checkpoint(path)
        model = build_model(config)
        _fill(model, checkpoint, path)
        origin = {"weights": path.name, "weights_sha256": file_sha256(path)}
    description = {"kind": "detectron2", "name": name, **origin, **_describe(config, class_names)}
    return Detectron2Tutor(config, model.eval(), class_names, description)


def _build_random(config: CfgNode, weights: str) -> torch.nn.Module:
    """Build the model with the initial weights of a seed, for trials of the machinery alone."""
    seed = weights.removeprefix("random:")
    if not seed.isdecimal():
        raise TutorError(f"expected random weights as random:SEED with a number, got '{weights}'")
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        model: torch.nn.Module = build_model(config)
    return model


class _Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Detectron2's checkpointer, fed with weights that were read safely."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model, save_to_disk=False)
        self.logger = logging.getLogger("tutor_gen.weights")
        self.logger.setLevel(logging.ERROR)  # the report below says it once, as an error

    def fill(self, checkpoint: Checkpoint) -> Any:
        """Load; return which names were missing, unexpected or of another shape."""
        return self._load_model(dict(checkpoint))


def _fill(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    report = _Checkpointer(model).fill(checkpoint)
    if report.incorrect_shapes:
        key, got, expected = report.incorrect_shapes[0]
        raise TutorError(
            f"{path} does not fit the configuration: expected {key} of shape {tuple(expected)}, "
            f"got {tuple(got)}"
        )
    # Old files lack the batch counter, which inference does not use.
    missing = [key for key in report.missing_keys if not key.endswith("num_batches_tracked")]
    if missing:
        raise TutorError(
            f"{path} lacks {len(missing)} of the model's weights, the first is '{missing[0]}'; "
            "it belongs to another configuration, or is a backbone only"
        )


def _class_names(path: Path, config: CfgNode) -> list[str]:
    """What the class numbers of a configuration file mean: sidecar first, then its data set."""
    has_sidecar = sidecar_path(path).exists()
    names = read_class_names(path) if has_sidecar else _data_set_class_names(config)
    expected = _number_of_classes(config)
    if len(names) != expected:
        raise TutorError(
            f"{path} has {expected} classes but {len(names)} class names are known; say what they "
            f'mean in {sidecar_path(path)}: class_names = ["...", ...]'
        )
    return names


def _zoo_class_names(full_name: str, config: CfgNode) -> list[str]:
    names = _data_set_class_names(config)
    if len(names) != _number_of_classes(config):
        raise TutorError(f"{full_name}: Detectron2 does not say what its class numbers mean")
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


def _weights_url(full_name: str) -> str:
    try:
        return str(model_zoo.get_checkpoint_url(f"{full_name}.yaml"))
    except RuntimeError:
        raise TutorError(
            f"the model zoo offers no weights for {full_name}; give your own with "
            "--detection-weights or --segmentation-weights"
        ) from None


def _download(url: str) -> Path:
    """Fetch a zoo file through Detectron2's own cache and check it against its name."""
    try:
        path = Path(PathManager.get_local_path(url))
    except Exception as error:
        raise TutorError(
            f"cannot download {url} ({error}); download that file elsewhere and name it with "
            "--detection-weights or --segmentation-weights"
        ) from None
    check_named_digest(path, url.rsplit("/", 1)[-1])
    return path


def _describe(config: CfgNode, class_names: Sequence[str]) -> dict[str, Any]:
    """The settings that decide what the model says, and a digest of the whole configuration."""
    whole = config.clone()
    whole.MODEL.WEIGHTS = whole.MODEL.DEVICE = whole.OUTPUT_DIR = ""
    return {
        "class_names": list(class_names),
        "min_size": int(config.INPUT.MIN_SIZE_TEST),
        "max_size": int(config.INPUT.MAX_SIZE_TEST),
        "score_threshold": float(config.MODEL.ROI_HEADS.SCORE_THRESH_TEST),
        "nms_threshold": float(config.MODEL.ROI_HEADS.NMS_THRESH_TEST),
        "detections_per_image": int(config.TEST.DETECTIONS_PER_IMAGE),
        "masks": bool(config.MODEL.MASK_ON),
        "config_sha256": hashlib.sha256(whole.dump().encode()).hexdigest(),
    }


def paste_masks(
    masks: torch.Tensor, boxes: NDArray[np.float32], height: int, width: int
) -> NDArray[np.bool_]:
    """Paste (n, M, M) mask probabilities into (n, height, width) by Detectron2's own function."""
    pasted = paste_masks_in_image(masks, torch.from_numpy(boxes), (height, width), threshold=0.5)
    return np.asarray(pasted.numpy(), dtype=np.bool_)
