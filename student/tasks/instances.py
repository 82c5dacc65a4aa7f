"""Instance segmentation: a mask for each box, made of prototypes (YOLACT, arXiv 1904.02689)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.cache.format.record import InstanceMasks
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.device import on_its_way
from kdcli.common.errors import StudentError
from kdcli.common.files import write_json
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.geometry import Transform, UInt8Array
from kdcli.student.data.masks import ImageObjects, Objects, transformed
from kdcli.student.data.tables import BoxTable, InstanceTable
from kdcli.student.data.targets import ImageTargets
from kdcli.student.losses.instances import (
    MaskTargets,
    instance_loss,
    targets_of_masks,
    targets_of_objects,
)
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.decode import detections_of
from kdcli.student.model.instances import InstanceHead, InstanceOutput, MaskedDetections
from kdcli.student.tasks.detection import SURE
from kdcli.student.tasks.task import (
    NO_BOXES,
    Begun,
    Prediction,
    Scoring,
    Sources,
    Task,
    Taught,
    View,
)
from kdcli.voc.coco.rle import encode
from kdcli.voc.devkit import Availability, Devkit
from kdcli.voc.instances import InstanceTruth, instance_truth
from kdcli.voc.labels import VOID, LabelSet
from kdcli.voc.metrics import Compared, InstanceResult, Result, compare, evaluate_instances


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
        if not row.of("instances_tutor") or self.cache is None:
            return InstanceMasks.none()
        kept = self.cache.instances(row.image_id)
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
        said = transformed(tutor, transform).take(shown)
        return MaskSample(objects, known, _numbered(said))


@dataclass(frozen=True)
class MaskAnswer:
    """What is read in the outputs of B images, of N places for boxes each.

    Attributes:
        rows: (B, N, 7) of the boxes, see `detected_rows`.
        coefficients: (B, N, k) of theirs.
        prototypes: (B, k, s, s).
    """

    rows: Tensor
    coefficients: Tensor
    prototypes: Tensor


@dataclass
class MaskScorer:
    """Compares masks image by image, on the host."""

    task: Instances
    scoring: Scoring
    found: dict[str, Compared] = field(default_factory=dict)

    def update(
        self,
        names: Sequence[str],
        decoded: MaskAnswer,
        sizes: Sequence[tuple[int, int]],
        true: Sequence[InstanceTruth | None],
    ) -> Callable[[], None]:
        """See `Scorer`."""
        said = self.task.fetch(decoded, sizes)

        def wait() -> None:
            for name, own, truth in zip(names, said(), true, strict=True):
                if truth is not None:
                    self.found[name] = compare(own, own.masks(), truth)

        return wait

    def result(
        self, found: Sequence[Mapping[str, Compared]], earlier: Mapping[str, Result | None]
    ) -> InstanceResult | None:
        """See `Scorer`."""
        together = {name: one for part in found for name, one in part.items()}
        ordered = [together[name] for name in self.scoring.image_ids if name in together]
        names = self.scoring.devkit.labels.all_names
        return evaluate_instances(ordered, names, self.scoring.metric) if ordered else None


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
    waits = True
    says = "instances"
    ending = ".instances.json"
    exports = {  # noqa: RUF012
        "prototypes": "(batch, k, s, s) over the image",
        "coefficients": "(batch, A, k): the sigmoid of their sum of prototypes is a box' mask",
    }

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
        return InstanceHead(inputs, config.anchors_per_cell, config.prototypes)

    def initialise(self, module: nn.Module) -> None:
        """See `Task`."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def lesson(self, taught: Taught, teacher: str) -> MaskTargets:
        """See `Task`."""
        part: MaskBatch = taught.batch.parts[self.name]
        if teacher == "gt":
            return targets_of_objects(taught.anchors, part.gt, part.objects, taught.match)
        side = part.objects.shape[-1]
        return targets_of_masks(taught.anchors, part.tutor, side, taught.match)

    def loss(
        self, output: InstanceOutput, lesson: MaskTargets, weights: Tensor, targets: TargetsConfig
    ) -> dict[str, Tensor]:
        """See `Task`."""
        return {"": instance_loss(output, lesson, weights)}

    def decode(self, outputs: Mapping[str, Any], view: View) -> MaskAnswer:
        """See `Task`."""
        output: InstanceOutput = outputs[self.name]
        rows: Tensor = view.memo["detection"]
        index = rows[..., 6:].long().expand(-1, -1, output.coefficients.shape[-1])
        return MaskAnswer(
            rows, output.coefficients.gather(1, index).float(), output.prototypes.float()
        )

    def fetch(
        self, decoded: MaskAnswer, sizes: Sequence[tuple[int, int]]
    ) -> Callable[[], list[MaskedDetections]]:
        """See `Task`."""
        parts = decoded.rows, decoded.coefficients, decoded.prototypes
        sent = [on_its_way(part) for part in parts]

        def wait() -> list[MaskedDetections]:
            rows, coefficients, prototypes = (each() for each in sent)
            return [
                MaskedDetections(
                    each.boxes, each.labels, each.scores, own[: len(each)], prototype, size
                )
                for each, own, prototype, size in zip(
                    detections_of(rows, sizes), coefficients, prototypes, sizes, strict=True
                )
            ]

        return wait

    def overlay(self, said: MaskedDetections, threshold: float) -> dict[str, Any]:
        """See `Task`."""
        return {"masks": said.take(said.scores >= threshold).masks()}

    def write(self, path: Path, prediction: Prediction, photograph: Path, labels: LabelSet) -> None:
        """Write all masks as COCO's run lengths."""
        said: MaskedDetections = prediction.instances
        found = [
            {
                "class": labels.all_names[label],
                "confidence": round(float(confidence), 6),
                "segmentation": encode(mask),
            }
            for mask, label, confidence in zip(said.masks(), said.labels, said.scores, strict=True)
        ]
        write_json(path, {"image": str(photograph), "instances": found})

    def export(self, output: InstanceOutput, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """See ``exports``."""
        return output.prototypes, output.coefficients

    def truth(
        self, devkit: Devkit, folder: str, image_id: str, size: tuple[int, int]
    ) -> InstanceTruth | None:
        """See `Task`."""
        return instance_truth(devkit, image_id, size)

    def scorer(self, scoring: Scoring) -> MaskScorer:
        """See `Task`."""
        return MaskScorer(self, scoring)
