"""From what a user names to a tutor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdcli.common.device import use_device
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.config import GenerationConfig, Role
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS, holds_weights, other_kind
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Tutor

SAMPLE = Path(__file__).with_name("sample")


def load_tutors(config: GenerationConfig) -> TutorPair:
    """Load both tutors of a configuration.

    Where both roles name one model, it is loaded once and plays both.

    Raises:
        TutorError: There is no such tutor, it cannot be loaded or play its role, or both are
            ``none``.
        ResourceError: The device is not there.
    """
    detection, segmentation = config.detection, config.segmentation
    same = _model_named(detection.tutor) == _model_named(segmentation.tutor)
    if same and detection.weights == segmentation.weights and detection.tutor not in _PER_ROLE:
        least = min(detection.score_threshold, segmentation.score_threshold)
        both = replace(config, segmentation=replace(segmentation, score_threshold=least))
        tutor = load_tutor(segmentation.tutor, "segmentation", segmentation.weights, both)
        return TutorPair(tutor, tutor, config, loaded=True)
    return TutorPair(
        load_tutor(detection.tutor, "detection", detection.weights, config),
        load_tutor(segmentation.tutor, "segmentation", segmentation.weights, config),
        config,
        loaded=True,
    )


def load_tutor(
    spec: str,
    role: Role,
    weights: Path | str = "",
    config: GenerationConfig | None = None,
) -> Tutor | None:
    """Load the tutor that ``spec`` names.

    Args:
        spec: See `DetectionConfig.tutor`.
        role: A segmentation tutor has to give masks; a detection tutor is run without.
        weights: See `DetectionConfig.weights`.
        config: How it is run; the tutors that it names itself are left alone.

    Returns:
        The tutor, or None for ``"none"``.

    Raises:
        TutorError: There is no such tutor, or it cannot be loaded or play that role.
        ResourceError: The device is not there.
    """
    if spec == "none":
        return None
    if spec == "sample":
        spec, weights = str(SAMPLE / f"{role}.yaml"), weights or SAMPLE / f"{role}.pth"
    config = config or GenerationConfig()
    settings = config.model(role, str(use_device(config.runtime.device)))
    if Path(spec).is_file() and Path(spec).suffix not in CONFIG_ENDINGS:
        return _load_torchscript(Path(spec), weights, settings)
    return _load_detectron2(spec, weights or None, settings)


def _load_detectron2(spec: str, weights: Path | str | None, settings: ModelSettings) -> Tutor:
    path = Path(spec)
    is_config = path.suffix in CONFIG_ENDINGS and path.is_file()
    if not is_config:
        zoo.resolve(spec)  # before the import below, which takes seconds
    from kdcli.tutor_gen.detectron2 import load

    if is_config:
        return load.from_config(path, weights, settings)
    return load.from_zoo(spec, weights, settings)


def _load_torchscript(path: Path, weights: Path | str, settings: ModelSettings) -> Tutor:
    if kind := other_kind(path):
        raise TutorError(
            f"{path} is {kind}, which kdcli does not run; name a Detectron2 configuration (.yaml) "
            "of the same model, or export the model to TorchScript (torch.jit.save)"
        )
    if holds_weights(path):
        raise TutorError(
            f"{path} holds weights only; name the model's configuration (.yaml) or its zoo name as "
            "the tutor, and this file with --detection-weights or --segmentation-weights. A whole "
            "model, if it is one, becomes a tutor by torch.jit.save, not by torch.save"
        )
    if weights:
        raise TutorError(
            f"{path} is a TorchScript file, which holds its own weights; drop {weights}"
        )
    from kdcli.tutor_gen.torchscript.tutor import TorchScriptTutor

    return TorchScriptTutor(path, settings)


_PER_ROLE = ("sample", "none")
"""Names that mean another model in each role."""


def _model_named(spec: str) -> str:
    """``spec``, a short name of the zoo as its full one."""
    if spec in _PER_ROLE or Path(spec).is_file():
        return spec
    return zoo.resolve(spec)
