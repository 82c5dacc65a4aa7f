"""Instance segmentation: a mask for each box, made of prototypes (YOLACT, arXiv 1904.02689)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.cache.format.record import InstanceMasks
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.geometry import Transform, UInt8Array
from kdcli.student.data.masks import ImageObjects, Objects
from kdcli.student.data.tables import BoxTable, InstanceTable
from kdcli.student.data.targets import ImageTargets
from kdcli.student.losses.instances import instance_loss, targets_of_masks, targets_of_objects
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.instances import InstanceHead, InstanceOutput
from kdcli.student.tasks.detection import SURE
from kdcli.student.tasks.task import NO_BOXES, Begun, Judged, Sources, Task
from kdcli.voc.devkit import Availability
from kdcli.voc.labels import VOID
from kdcli.voc.metrics import InstanceResult


@dataclass(frozen=True)
class MaskBatch:
    """What the masks of B samples learn from; ``MaskSample`` says what is in it."""

    objects: Tensor
    gt: BoxTable
    tutor: InstanceTable


@dataclass(frozen=True)
class MaskSample:
    """What the masks of a sample learn from, s the side of the prototypes.

    Attributes:
        objects: (s, s) uint8: r + 1 where the object of ``gt``'s box r is, 0 for background and
            other objects, `VOID` where nothing is to be learned.
        gt: Boxes of the objects that have masks, relative to the sample; labelled 1, 2, ...
        tutor: The tutor's instances, mirrored with the sample, their boxes reaching outside it
            where the crop cut them; labelled 1, 2, ...
    """

    objects: UInt8Array
    gt: Detections
    tutor: InstanceMasks

    @classmethod
    def collate(cls, samples: Sequence[MaskSample]) -> MaskBatch:
        """Stack samples; boxes are padded to the most."""
        return MaskBatch(
            torch.from_numpy(np.stack([sample.objects for sample in samples])),
            BoxTable.stacked([sample.gt for sample in samples]),
            InstanceTable.stacked([sample.tutor for sample in samples]),
        )


class MaskReader:
    """Reads object masks with their boxes, and the tutor's own masks from the store."""

    def __init__(self, sources: Sources) -> None:
        self.objects = Objects(sources.devkit, sources.config.data.difficult)
        self.devkit = sources.devkit
        self.cache = sources.cache
        self.config = sources.config

    def begin(self, row: ImageTargets) -> Begun:
        """See `Reader`."""
        gt, tutor = self._gt(row), self._tutor(row)
        known = NO_BOXES if gt is None else gt.boxes
        landmarks = np.concatenate([known, tutor.boxes[tutor.scores >= SURE]])
        return Begun(landmarks, functools.partial(self._cut, gt, tutor))

    def _gt(self, row: ImageTargets) -> ImageObjects | None:
        return self.objects.read(row.image_id) if row.of("instances_gt") else None

    def _tutor(self, row: ImageTargets) -> InstanceMasks:
        taught = row.of("instances_tutor") and self.cache is not None
        kept = self.cache.instances(row.image_id) if taught and self.cache is not None else None
        if kept is None:
            return InstanceMasks.none()
        targets = self.config.targets.instances
        kept = kept.take(kept.scores >= targets.threshold)
        sure = kept.scores if targets.confidence_weighting else np.ones_like(kept.scores)
        return replace(kept, scores=sure)

    def _cut(
        self,
        gt: ImageObjects | None,
        tutor: InstanceMasks,
        transform: Transform,
        _others: Mapping[str, Any],
    ) -> MaskSample:
        side, least = self.config.model.finest_side, self.config.augmentation.min_box
        objects, known = np.full((side, side), VOID, np.uint8), Detections.none()
        if gt is not None:
            boxes, keep = transform.boxes(gt.boxes, least)
            known = _numbered(Detections(boxes, gt.numbers[keep], np.ones(len(boxes), np.float32)))
            meaning = np.zeros(VOID + 1, np.uint8)
            meaning[gt.numbers[keep]], meaning[VOID] = known.labels, VOID
            objects = meaning[transform.map(gt.rows, side, fill=VOID)]
        _, shown = transform.boxes(tutor.boxes, least)
        relative = transform.relative(tutor.boxes).astype(np.float32)
        masks = tutor.masks[:, :, ::-1] if transform.flip else tutor.masks
        said = replace(tutor, boxes=relative, masks=masks).take(shown)
        return MaskSample(objects, known, _numbered(said))


def _numbered(found: Any) -> Any:
    """Return boxes labelled 1, 2, ...: so that what an anchor is matched to says which box."""
    return replace(found, labels=np.arange(1, len(found) + 1))


class Instances(Task):
    """See the module; it takes detection's boxes, and its first weights are Glorot's."""

    name = "instances"
    needs = ("detection",)
    colour = "tab:purple"
    losses = {"": "tab:purple"}  # noqa: RUF012
    measure = InstanceResult.measure

    def labelled(self, present: Availability) -> frozenset[str]:
        """See `Task`."""
        return present.objects

    def roles(self, targets: TargetsConfig) -> frozenset[str]:
        """See `Task`."""
        return frozenset({"segmentation"})

    def check(self, config: RunConfig, cache: TutorCache) -> None:
        """See `Task`."""
        if not cache.has_instances:
            raise StudentError(
                f"targets.instances.source = {config.targets.instances.source!r} asks for the "
                "segmentation tutor's own masks, which this cache does not keep: generate it with "
                "--keep-masks"
            )

    def reader(self, sources: Sources, others: Mapping[str, Any]) -> MaskReader:
        """See `Task`."""
        return MaskReader(sources)

    def noise(self, rng: np.random.Generator, config: ModelConfig) -> MaskSample:
        """See `Task`."""
        side = config.finest_side
        gt = Detections(
            np.array([[0.1, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 0.9]], np.float32),
            np.array([1, 2]), np.ones(2, np.float32),
        )  # fmt: skip
        objects = rng.integers(0, 3, (side, side), dtype=np.uint8)
        return MaskSample(objects, gt, InstanceMasks.none())

    def head(self, inputs: int, config: ModelConfig) -> InstanceHead:
        """See `Task`."""
        maps, per_cell = len(config.map_sides), config.anchors_per_cell
        return InstanceHead(inputs, maps, per_cell, config.prototypes)

    def initialise(self, module: nn.Module) -> None:
        """See `Task`."""
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def loss(self, judged: Judged, teacher: str, weights: Tensor) -> dict[str, Tensor]:
        """See `Task`."""
        output: InstanceOutput = judged.outputs[self.name]
        part: MaskBatch = judged.batch.parts[self.name]
        if teacher == "gt":
            targets = targets_of_objects(judged.anchors, part.gt, part.objects)
        else:
            targets = targets_of_masks(judged.anchors, part.tutor, part.objects.shape[-1])
        return {"": instance_loss(output, targets, weights)}
