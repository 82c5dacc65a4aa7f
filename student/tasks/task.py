"""What a task is: all that the rest of the student asks of one.

Its name is that of its heads in the network, of its section ``targets.NAME``, of its terms in the
loss curve and of its part of an evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.cache.reader import TutorCache
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.batch import Batch
from kdcli.student.data.geometry import FloatArray, Transform
from kdcli.student.data.targets import ImageTargets, Targets
from kdcli.student.losses.matching import Matches, match
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.decode import BoxLimits
from kdcli.voc.devkit import Availability, Devkit
from kdcli.voc.labels import LabelSet
from kdcli.voc.metrics import Measure, Metric, Result

NO_BOXES: FloatArray = np.zeros((0, 4), np.float32)
Part = Any
"""What a task has of a sample: of its own type, whose ``collate`` makes a batch's of many."""


@dataclass(frozen=True)
class Sources:
    """What training samples are read from: ``cache`` is None where no tutor teaches."""

    devkit: Devkit
    cache: TutorCache | None
    rows: Targets
    config: RunConfig
    mask_folder: str


@dataclass(frozen=True)
class Begun:
    """A task's part of a sample before the crop is drawn.

    Attributes:
        landmarks: (n, 4) boxes in pixels of the photograph, of which a crop has to show one.
        cut: Returns the part for a crop; it is given the parts of earlier tasks, by name.
    """

    landmarks: FloatArray
    cut: Callable[[Transform, Mapping[str, Part]], Part]


class Reader(Protocol):
    """Reads what a task learns from, image by image; one for each data set."""

    def begin(self, row: ImageTargets) -> Begun:
        """Read what an image teaches; nothing, of the right type, where it teaches nothing."""


@dataclass(frozen=True)
class Taught:
    """What a batch has to teach: on the device of the anchors, (A, 4) of the network.

    Attributes:
        batch: All of it.
        anchors: See above.
        targets: What tutors' words become.
        match: `student.losses.matching.match`, or what it was compiled to.
    """

    batch: Batch
    anchors: Tensor
    targets: TargetsConfig
    match: Callable[..., Matches] = match


@dataclass(frozen=True)
class View:
    """How outputs are read; ``memo`` is what tasks leave to later ones.

    Attributes:
        anchors: (A, 4) of the network.
        sizes: (height, width) of the B photographs.
        limits: Which boxes survive.
    """

    anchors: Tensor
    sizes: Sequence[tuple[int, int]]
    limits: BoxLimits
    memo: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a student says about one image; the word of each of its tasks is an attribute, too.

    Attributes:
        image_id: Its name.
        size: (height, width) of the image in pixels.
        said: By `Task.says`. A detector's ``detections`` are its boxes in pixels of the image, the
            most confident first; a segmenter's ``class_map`` is (H, W) uint8 class ids, 0
            background.
    """

    image_id: str
    size: tuple[int, int]
    said: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        said = vars(self).get("said", {})  # empty while a copy is being made
        if name not in said:
            raise AttributeError(f"this student says {', '.join(said) or 'nothing'}, no {name}")
        return said[name]


@dataclass(frozen=True)
class Scoring:
    """What is evaluated: all images, also those that other processes work on, and how.

    Attributes:
        devkit: Of the images.
        image_ids: Of the list.
        metric: How precision over recall becomes one number.
        device: Where the network computes.
    """

    devkit: Devkit
    image_ids: Sequence[str]
    metric: Metric
    device: torch.device


class Scorer(Protocol):
    """Scores what a task says, batch after batch."""

    @property
    def found(self) -> Any:
        """What was seen so far, to be sent to the other processes."""

    def update(
        self, names: Sequence[str], decoded: Any, sizes: Sequence[tuple[int, int]], true: Any
    ) -> Callable[[], None]:
        """Take in a batch: queue the work on the device; what is returned waits for it.

        Args:
            names: Ids of the images.
            decoded: What `Task.decode` returned of them.
            sizes: (height, width) of the photographs.
            true: What `Task.gather` returned of them.
        """

    def result(self, found: Sequence[Any], earlier: Mapping[str, Result | None]) -> Result | None:
        """Return the score of what all processes found; None where there is no ground truth.

        Args:
            found: Of each process.
            earlier: Results of the tasks before this one, by name.
        """


class Task(ABC):
    """A task; it has no state.

    Attributes:
        name: See the module.
        needs: Names of other tasks that it builds on; a run that has it has them.
        colour: Of its metric in drawings.
        losses: The terms of its loss, as endings of their names, and their colours.
        measure: Its metric.
        waits: Whether its decoding waits for the device: then it comes after the others'.
        says: What its word is called in a `Prediction`.
        ending: Of the file that ``predict`` writes.
        exports: The outputs of an ONNX file, and what they are.
        sidecar: TOML that makes an ONNX file a tutor (docs/exports.md); ``{classes}`` and ``{nms}``
            are filled in.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    colour: ClassVar[str]
    losses: ClassVar[Mapping[str, str]]
    measure: ClassVar[Measure]
    waits: ClassVar[bool] = False
    says: ClassVar[str]
    ending: ClassVar[str]
    exports: ClassVar[Mapping[str, str]]
    sidecar: ClassVar[str] = ""

    # What it learns from.

    @abstractmethod
    def labelled(self, present: Availability) -> Collection[str]:
        """Return the ids of the images that have its ground truth."""

    @abstractmethod
    def roles(self, targets: TargetsConfig) -> frozenset[str]:
        """Return the roles of a store that it needs where a tutor teaches it."""

    def check(self, config: RunConfig, cache: TutorCache) -> None:  # noqa: B027
        """Raise StudentError if the store that is to teach it lacks something."""

    @abstractmethod
    def reader(self, sources: Sources, others: Mapping[str, Any]) -> Reader:
        """Return what reads its part of samples; ``others`` are the readers of earlier tasks."""

    @abstractmethod
    def noise(self, rng: np.random.Generator, config: ModelConfig) -> Part:
        """Return its part of a sample of noise that learns from ground truth, as noisy."""

    # The network.

    @abstractmethod
    def head(self, inputs: int, config: ModelConfig) -> nn.Module:
        """Return what makes its output of the maps (B, inputs, s, s), a list, finest first."""

    @abstractmethod
    def initialise(self, module: nn.Module) -> None:
        """Set the first weights of a module of its head."""

    # Training.

    @abstractmethod
    def lesson(self, taught: Taught, teacher: str) -> Any:
        """Return what a batch teaches, without gradients: what `loss` compares the output with.

        Tensors, in named tuples or dictionaries, *whose shapes are those of any other batch* with
        as many images: all that differs in shape from batch to batch (the number of boxes, the
        rows of palettes) is dealt with here.

        Args:
            taught: The batch, and what belongs to it.
            teacher: ``gt`` or ``tutor`` (`student.data.targets.TEACHERS`).
        """

    @abstractmethod
    def loss(
        self, output: Any, lesson: Any, weights: Tensor, targets: TargetsConfig
    ) -> dict[str, Tensor]:
        """Return its loss: float32 scalars by the keys of ``losses``.

        With the network it is translated by ``torch.compile``, as one program: nothing in it may
        ask the device for a number, or depend on anything of the batch but tensors.

        Args:
            output: Of its head.
            lesson: Of `lesson`.
            weights: (B,) of the images; see `student.losses.losses`.
            targets: The settings.
        """

    # Inference.

    @abstractmethod
    def decode(self, outputs: Mapping[str, Any], view: View) -> Any:
        """Return what is read in the outputs, of the whole batch, on their device."""

    @abstractmethod
    def fetch(self, decoded: Any, sizes: Sequence[tuple[int, int]]) -> Callable[[], Sequence[Any]]:
        """Send that to the host; what is returned waits for it, and gives each image's word."""

    def overlay(self, said: Any, threshold: float) -> dict[str, Any]:
        """Return arguments of `voc.view.overlay.overlay` that draw its word."""
        return {}

    @abstractmethod
    def write(self, path: Path, prediction: Prediction, photograph: Path, labels: LabelSet) -> None:
        """Write its word on a photograph to a file of ``predict``."""

    @abstractmethod
    def export(self, output: Any, anchors: Tensor) -> tuple[Tensor, ...]:
        """Return what an ONNX file says for an output of its head, as named in ``exports``."""

    # Evaluation.

    @abstractmethod
    def truth(self, devkit: Devkit, folder: str, image_id: str, size: tuple[int, int]) -> Any:
        """Read an image's ground truth, in a worker; None where there is none.

        Args:
            devkit: Where it lies.
            folder: Of the class masks.
            image_id: Which image.
            size: (height, width) of its photograph.
        """

    def gather(self, truths: Sequence[Any]) -> Any:
        """Put the ground truth of a batch together: see `student.data.tables.mapped`."""
        return list(truths)

    @abstractmethod
    def scorer(self, scoring: Scoring) -> Scorer:
        """Return what scores its words."""
