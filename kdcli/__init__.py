"""Offline knowledge distillation for multi-task vision.

    >>> import kdcli
    >>> devkit = kdcli.Devkit.open("VOCdevkit")  # doctest: +SKIP
    >>> tutors = kdcli.load_tutors(kdcli.generation_config())  # doctest: +SKIP
    >>> kdcli.generate(devkit, devkit.image_ids("Main/train"), tutors, "voc.zarr")  # doctest: +SKIP

What ``__all__`` lists is the interface, each name imported when it is first used; docs/python.md
shows it at work. Everything below ``kdcli.voc``, ``kdcli.cache`` and so on may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcli.cache.format.record import FailedImage, InstanceMasks, TutorOutput
    from kdcli.cache.reader import TutorCache
    from kdcli.cache.writer import CacheWriter
    from kdcli.common.detections import Detections
    from kdcli.common.errors import KdcliError
    from kdcli.student.config.schema import RunConfig
    from kdcli.student.config.toml import run_config
    from kdcli.student.evaluation.inference import Prediction
    from kdcli.student.student import Student, load_student
    from kdcli.student.training.train import train
    from kdcli.tutor_gen.config import GenerationConfig, generation_config
    from kdcli.tutor_gen.generate import generate
    from kdcli.tutor_gen.pipeline.pair import TutorPair
    from kdcli.tutor_gen.quality.evaluate import evaluate_tutors
    from kdcli.tutor_gen.registry import load_tutor, load_tutors
    from kdcli.tutor_gen.tutors.tutor import Instances, SemanticOutput, Tutor
    from kdcli.voc.check.check import check_data
    from kdcli.voc.classes import CLASSES
    from kdcli.voc.coco.import_coco import import_coco
    from kdcli.voc.coco.write_truth import write_truth
    from kdcli.voc.devkit import Devkit
    from kdcli.voc.labels import LabelSet
    from kdcli.voc.labels_file import read_labels, write_labels
    from kdcli.voc.scan import scan_images
    from kdcli.voc.scenes.dataset import make_sample

__version__: str

_HOMES = {
    "kdcli.common.errors": ("KdcliError",),
    "kdcli.common.detections": ("Detections",),
    "kdcli.voc.check.check": ("check_data",),
    "kdcli.voc.classes": ("CLASSES",),
    "kdcli.voc.coco.import_coco": ("import_coco",),
    "kdcli.voc.coco.write_truth": ("write_truth",),
    "kdcli.voc.devkit": ("Devkit",),
    "kdcli.voc.labels": ("LabelSet",),
    "kdcli.voc.labels_file": ("read_labels", "write_labels"),
    "kdcli.voc.scenes.dataset": ("make_sample",),
    "kdcli.voc.scan": ("scan_images",),
    "kdcli.tutor_gen.config": ("GenerationConfig", "generation_config"),
    "kdcli.tutor_gen.registry": ("load_tutor", "load_tutors"),
    "kdcli.tutor_gen.tutors.tutor": ("Instances", "SemanticOutput", "Tutor"),
    "kdcli.tutor_gen.pipeline.pair": ("TutorPair",),
    "kdcli.tutor_gen.generate": ("generate",),
    "kdcli.tutor_gen.quality.evaluate": ("evaluate_tutors",),
    "kdcli.cache.reader": ("TutorCache",),
    "kdcli.cache.writer": ("CacheWriter",),
    "kdcli.cache.format.record": ("FailedImage", "InstanceMasks", "TutorOutput"),
    "kdcli.student.config.schema": ("RunConfig",),
    "kdcli.student.config.toml": ("run_config",),
    "kdcli.student.training.train": ("train",),
    "kdcli.student.student": ("Student", "load_student"),
    "kdcli.student.evaluation.inference": ("Prediction",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CLASSES",
    "CacheWriter",
    "Detections",
    "Devkit",
    "FailedImage",
    "GenerationConfig",
    "InstanceMasks",
    "Instances",
    "KdcliError",
    "LabelSet",
    "Prediction",
    "RunConfig",
    "SemanticOutput",
    "Student",
    "Tutor",
    "TutorCache",
    "TutorOutput",
    "TutorPair",
    "__version__",
    "check_data",
    "evaluate_tutors",
    "generate",
    "generation_config",
    "import_coco",
    "load_student",
    "load_tutor",
    "load_tutors",
    "make_sample",
    "read_labels",
    "run_config",
    "scan_images",
    "train",
    "write_labels",
    "write_truth",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # slow, and rarely asked for

        return metadata.version("kdcli")
    if name not in _HOME:
        raise AttributeError(f"module 'kdcli' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
