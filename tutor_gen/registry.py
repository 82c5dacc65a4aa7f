"""From what a user names to a tutor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdcli.common.device import use_device
from kdcli.tutor_gen.config import GenerationConfig, Role
from kdcli.tutor_gen.kinds import kind_of
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet


def load_tutors(config: GenerationConfig, labels: LabelSet = VOC) -> TutorPair:
    """Load both tutors of a configuration, to give the labels of a data set (``devkit.labels``).

    Where both roles name one model, it is loaded once and plays both, unless it answers them
    differently: with objects, and with a class of every cell.

    Raises:
        TutorError: There is no such tutor, it cannot be loaded or play its role, both are
            ``none``, or the labels have words that no tutor knows.
        ResourceError: The device is not there.
    """
    detection, segmentation = config.detection, config.segmentation
    same = _model_named(detection.tutor) == _model_named(segmentation.tutor)
    if same and detection.weights == segmentation.weights and detection.tutor not in _PER_ROLE:
        least = min(detection.score_threshold, segmentation.score_threshold)
        both = replace(config, segmentation=replace(segmentation, score_threshold=least))
        tutor = load_tutor(segmentation.tutor, "segmentation", segmentation.weights, both, labels)
        if tutor is None or "semantic" not in tutor.description:
            return TutorPair(tutor, tutor, config, loaded=True, labels=labels)
        del tutor  # whose network would stay in a GPU's memory beside the two below
    return TutorPair(
        load_tutor(detection.tutor, "detection", detection.weights, config, labels),
        load_tutor(segmentation.tutor, "segmentation", segmentation.weights, config, labels),
        config,
        loaded=True,
        labels=labels,
    )


def load_tutor(
    spec: str,
    role: Role,
    weights: Path | str = "",
    config: GenerationConfig | None = None,
    labels: LabelSet = VOC,
) -> Tutor | None:
    """Load the tutor that ``spec`` names.

    Args:
        spec: See `DetectionConfig.tutor`.
        role: A segmentation tutor has to give masks; a detection tutor is run without.
        weights: See `DetectionConfig.weights`.
        config: How it is run; the tutors that it names itself are left alone.
        labels: Of the data set, which it is to give.

    Returns:
        The tutor, or None for ``"none"``.

    Raises:
        TutorError: There is no such tutor, or it cannot be loaded or play that role.
        ResourceError: The device is not there.
    """
    if spec == "none":
        return None
    config = config or GenerationConfig()
    settings = config.model(role, str(use_device(config.runtime.device)), labels)
    return kind_of(spec).load(spec, str(weights or ""), settings)


_PER_ROLE = ("sample", "none")
"""Names that mean another model in each role."""


def _model_named(spec: str) -> str:
    """``spec``, with what it names by its full name."""
    return spec if spec in _PER_ROLE else kind_of(spec).model(spec)
