"""A trained student as an object: load it, show it an image, score it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcli.common.device import use_device
from kdcli.common.errors import StudentError
from kdcli.common.names import difference
from kdcli.common.progress import Progress, no_progress
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.geometry import UInt8Array
from kdcli.student.data.plan import class_masks
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.evaluate import Evaluation, evaluate_model
from kdcli.student.evaluation.inference import Prediction, infer_arrays
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.runs.checkpoint import LAST
from kdcli.student.runs.directory import recorded_labels
from kdcli.student.runs.load import load_run
from kdcli.voc.classes import VOC
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import LabelSet


@dataclass(frozen=True)
class Student:
    """A network in evaluation mode, and the configuration that it was trained by.

    Attributes:
        config: Of its run.
        model: On its device.
        step: How many steps trained it.
        labels: What it tells apart.
    """

    config: RunConfig
    model: BlitzNet
    step: int
    labels: LabelSet = VOC

    @functools.cached_property
    def engine(self) -> Engine:
        """What it predicts with: a copy of ``model`` as it is when it is first asked."""
        return Engine(self.model, InferenceSettings.of_run(self.config))

    def predict(self, image: UInt8Array) -> Prediction:
        """Return boxes and class map of one image, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: Another shape or type.
        """
        return self.predict_all([image])[0]

    def predict_all(self, images: Sequence[UInt8Array]) -> list[Prediction]:
        """Return the same of several images, whose sizes may differ."""
        return infer_arrays(self.engine, images)

    def evaluate(
        self, devkit: Devkit, list_name: str, progress: Progress = no_progress
    ) -> Evaluation:
        """Score it on a list of a devkit: VOC mAP and mIoU.

        Raises:
            DevkitError: No such list, or an image that cannot be read.
            StudentError: Images without boxes, or a devkit of other labels.
        """
        if differs := difference(self.labels.names, devkit.labels.names, "it", "the data set"):
            raise StudentError(f"The student knows other labels than {devkit.root}: {differs}")
        return evaluate_model(
            self.engine,
            devkit,
            devkit.image_ids(list_name),
            folder=class_masks(self.config, list_name),
            metric=self.config.evaluation.metric,
            progress=progress,
        )


def load_student(
    run: Path | str, *, checkpoint: str = LAST, device: torch.device | str = "auto"
) -> Student:
    """Load the student of a run.

    Args:
        run: The folder that ``train`` wrote.
        checkpoint: ``last`` or ``best``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        StudentError: No such run or checkpoint.
        ResourceError: No such device.
    """
    run = Path(run)
    loaded = load_run(run, checkpoint=checkpoint, device=use_device(str(device)))
    return Student(*loaded, recorded_labels(run))
