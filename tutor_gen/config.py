"""What a generation run does: frozen dataclasses, one per section of the TOML file.

    [detection]
    tutor = "sample"
    score_threshold = 0.01

    [label_vectors]
    masks = "soft"

Light: imported by the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdcli.common.config import Changes, apply, build, by_keyword, expect, read_toml
from kdcli.tutor_gen.detectron2.zoo import DEFAULT_DETECTION, DEFAULT_SEGMENTATION
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

Role = Literal["detection", "segmentation"]

AMP = {"none": None, "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class DetectionConfig:
    """The tutor that gives boxes.

    Attributes:
        tutor: ``none``; ``sample`` for the small tutor that ships with the project; a name of
            Detectron2's model zoo, full or short; a Detectron2 configuration (``.yaml``); or a
            TorchScript file with its sidecar.
        weights: A ``.pkl`` or ``.pth`` file, or ``random:SEED`` for untrained ones; empty for the
            tutor's own (the zoo's are downloaded).
        score_threshold: Boxes of lower score are left out; the default is the thesis'. 0 keeps all
            that the tutor returns.
    """

    tutor: str = DEFAULT_DETECTION
    weights: str = ""
    score_threshold: float = 0.001


@dataclass(frozen=True)
class SegmentationConfig:
    """The tutor that gives label vectors.

    Attributes:
        tutor: As of detection.
        weights: As of detection.
        score_threshold: Instances of lower score leave no trace in the label vectors; the default
            is Detectron2's own, with which its Mask R-CNNs are evaluated.
        keep_masks: Whether the tutor's own 28 x 28 masks are kept, too, of the instances that make
            the label vectors.
    """

    tutor: str = DEFAULT_SEGMENTATION
    weights: str = ""
    score_threshold: float = 0.05
    keep_masks: bool = False


@dataclass(frozen=True)
class InferenceConfig:
    """How the tutors are run.

    Attributes:
        detections_per_image: At most so many objects an image, those of the highest scores.
        min_size: The shorter side, in pixels, that images are resized to; 0 for the tutors' own.
        amp: Automatic mixed precision of Detectron2 tutors: ``none``, ``bf16`` or ``fp16``.
    """

    detections_per_image: int = 100
    min_size: int = 0
    amp: Literal["none", "bf16", "fp16"] = "none"

    def __post_init__(self) -> None:
        limit, side = self.detections_per_image, self.min_size
        expect(limit >= 1, "inference.detections_per_image", "at least 1", limit)
        expect(side == 0 or side >= 16, "inference.min_size", "0, or at least 16", side)


@dataclass(frozen=True)
class RuntimeConfig:
    """How a run uses the machine; none of it changes what the tutors say, but for last bits.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        workers: Processes that read and resize photographs ahead of the tutors; -1 for 4 with a
            GPU, else 1.
        batch_size: Images of one shape that pass a tutor together. Beyond 1 the last bits of
            scores and coordinates depend on it.
        images_per_shard: Images that are written, and after an interruption repeated, together.
    """

    device: str = "auto"
    workers: int = -1
    batch_size: int = 1
    images_per_shard: int = 64

    def __post_init__(self) -> None:
        expect(self.workers >= -1, "runtime.workers", "at least 0 (or -1)", self.workers)
        for name in ("batch_size", "images_per_shard"):
            expect(getattr(self, name) >= 1, f"runtime.{name}", "at least 1", getattr(self, name))


@dataclass(frozen=True)
class GenerationConfig:
    """All settings of a generation run.

    Attributes:
        lists: Image lists below ``ImageSets``, without ``.txt``; an image of several is labelled
            once.
        detection: The tutor that gives boxes.
        segmentation: The tutor that gives label vectors.
        inference: How they are run.
        label_vectors: What the label vectors are made of.
        runtime: How the machine is used.
    """

    lists: tuple[str, ...] = ("Segmentation/trainval",)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    label_vectors: LabelForm = field(default_factory=LabelForm)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        for role in ("detection", "segmentation"):
            value = getattr(self, role).score_threshold
            expect(0 <= value < 1, f"{role}.score_threshold", "from 0 to below 1", value)

    def model(self, role: Role, device: str, labels: LabelSet = VOC) -> ModelSettings:
        """Return how the model in a role is run, to give these labels."""
        segments = role == "segmentation"
        return ModelSettings(
            score_threshold=getattr(self, role).score_threshold,
            detections_per_image=self.inference.detections_per_image,
            min_size=self.inference.min_size or None,
            masks=segments,
            device=device,
            keep_masks=segments and self.segmentation.keep_masks,
            amp=AMP[self.inference.amp],
            form=self.label_vectors,
            labels=labels,
        )


def generation_config(
    source: Path | str | None = None, changes: Changes = (), **settings: Any
) -> GenerationConfig:
    """Return the configuration of a TOML file, with settings changed.

    >>> generation_config(detection__tutor="sample").detection.tutor
    'sample'

    Args:
        source: The file; None for the defaults.
        changes: Such as ``{"detection.tutor": "sample"}`` or ``["detection.tutor=sample"]``.
        settings: The same as keywords, ``__`` for the dot; they have the last word.

    Raises:
        ConfigError: No such file, not TOML, an unknown key, or a value out of place.
        TutorError: Label vectors of a form that there is not.
    """
    table = apply(changes, {} if source is None else read_toml(Path(source)))
    table = apply(by_keyword(settings), table)
    where = "the configuration" if source is None else f"the configuration {source}"
    return build(GenerationConfig, table, where)
