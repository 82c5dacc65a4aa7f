"""What a task is: all that the rest of the student asks of one.

Its name is that of its heads in the network, of its section ``targets.NAME``, of its terms in the
loss curve and of its part of an evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from kdcli.cache.reader import TutorCache
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.batch import Batch
from kdcli.student.data.geometry import FloatArray, Transform
from kdcli.student.data.targets import ImageTargets, Targets
from kdcli.student.model.config import ModelConfig
from kdcli.voc.devkit import Availability, Devkit
from kdcli.voc.metrics import Measure

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
class Judged:
    """A batch and what the network said of it; ``memo`` is what tasks leave to later ones."""

    outputs: Mapping[str, Any]
    batch: Batch
    anchors: Tensor
    targets: TargetsConfig
    memo: dict[Any, Any] = field(default_factory=dict)


class Task(ABC):
    """A task; it has no state.

    Attributes:
        name: See the module.
        needs: Names of other tasks that it builds on; a run that has it has them.
        colour: Of its metric in drawings.
        losses: The terms of its loss, as endings of their names, and their colours.
        measure: Its metric.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    colour: ClassVar[str]
    losses: ClassVar[Mapping[str, str]]
    measure: ClassVar[Measure]

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
    def loss(self, judged: Judged, teacher: str, weights: Tensor) -> dict[str, Tensor]:
        """Return its loss against ``gt`` or ``tutor``: float32 scalars by the keys of ``losses``.

        Args:
            judged: The batch, on the device of the outputs.
            teacher: One of `student.data.targets.TEACHERS`.
            weights: (B,) of the images; see `student.losses.losses`.
        """
