"""Detectron2 models and their weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.detectron2.door import (
    CfgNode,
    DetectionCheckpointer,
    FrozenBatchNorm2d,
    PathManager,
    build_model,
    model_zoo,
)
from kdcli.tutor_gen.detectron2.weights import Checkpoint, check_named_digest, read_checkpoint
from kdcli.tutor_gen.tutors.device import seeded


def load_model(config: CfgNode, weights: Path | str) -> tuple[torch.nn.Module, dict[str, str]]:
    """Build the configuration's model, ready for inference, and fill it.

    Args:
        config: says which model, and on which device.
        weights: a weights file, or ``random:SEED``.

    Returns:
        The model, and what there is to say about its weights' origin.

    Raises:
        TutorError: the weights cannot be read or do not fit.
    """
    if str(weights).startswith("random:"):
        return _build_random(config, str(weights)), {"weights": str(weights)}
    path = Path(weights)
    checkpoint = read_checkpoint(path)
    model = _build(config)
    _fill(model, checkpoint, path)
    return model.eval(), {"weights": path.name, "weights_sha256": sha256_file(path)}


def weights_url(full_name: str) -> str:
    """Return where the zoo's official weights of a model lie; TutorError if it has none."""
    try:
        return str(model_zoo.get_checkpoint_url(f"{full_name}.yaml"))
    except RuntimeError:
        raise TutorError(
            f"the model zoo offers no weights for {full_name}; give your own with "
            "--detection-weights or --segmentation-weights"
        ) from None


def download(url: str) -> Path:
    """Fetch a zoo file through Detectron2's own cache and check it against its name.

    Raises:
        TutorError: it cannot be had, or is damaged.
    """
    try:
        path = Path(PathManager.get_local_path(url))
    except Exception as error:
        raise TutorError(
            f"cannot download {url} ({error}); download that file elsewhere and name it with "
            "--detection-weights or --segmentation-weights"
        ) from None
    check_named_digest(path, url.rsplit("/", 1)[-1])
    return path


def _build(config: CfgNode) -> torch.nn.Module:
    try:
        model: torch.nn.Module = build_model(config)
    except KeyError as error:  # a name of another project's parts
        raise TutorError(f"the configuration needs more than Detectron2: {error.args[0]}") from None
    return model


class _Checkpointer(DetectionCheckpointer):  # type: ignore[misc]
    """Detectron2's checkpointer, fed with weights that were read safely."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model, save_to_disk=False)
        self.logger = logging.getLogger("tutor_gen.weights")
        self.logger.setLevel(logging.ERROR)  # what does not fit is raised, once

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


def _build_random(config: CfgNode, weights: str) -> torch.nn.Module:
    """Build the model with the initial weights of a seed, for trials of the machinery alone."""
    with seeded(weights):
        model = _build(config).eval()
        _calibrate_norms(model)
    return model


def _calibrate_norms(model: Any) -> None:
    """Give a random model's batch norms the statistics of one noise image.

    With the statistics it starts with (mean 0, variance 1) a deep random ResNet's activations grow
    without bound, and it detects nothing.
    """

    def take_statistics(norm: Any, inputs: tuple[torch.Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    kinds = (FrozenBatchNorm2d, torch.nn.BatchNorm2d)
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    noise = torch.rand(3, 256, 256) * 255
    with torch.no_grad():
        model.backbone(model.preprocess_image([{"image": noise}]).tensor)
    for hook in hooks:
        hook.remove()
