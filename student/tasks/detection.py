"""Detection: boxes of objects, from anchors on every map (BlitzNet paper, arXiv 1708.02813)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.common.detections import Detections
from kdcli.common.device import on_its_way
from kdcli.common.errors import StudentError
from kdcli.common.files import write_json
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.geometry import Transform
from kdcli.student.data.ground_truth import read_truth
from kdcli.student.data.tables import BoxTable
from kdcli.student.data.targets import ImageTargets
from kdcli.student.losses.losses import detection_loss
from kdcli.student.losses.matching import Matches
from kdcli.student.model.anchors import decode_boxes
from kdcli.student.model.blocks import AnchorHead
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.decode import AnchorOutput, detected_rows, detections_of
from kdcli.student.tasks.task import Begun, Prediction, Scoring, Sources, Task, Taught, View
from kdcli.voc.annotation import Annotation
from kdcli.voc.devkit import Availability, Devkit
from kdcli.voc.labels import LabelSet
from kdcli.voc.metrics import DetectionResult, evaluate_detections

SURE = 0.5
"""A tutor's box less sure than this is no reason to crop an image around it."""
OBJECTS = 3
"""In a sample of noise."""


@dataclass(frozen=True)
class BoxBatch:
    """Boxes of a batch, relative to the samples: ground truth, all of score 1, and the tutor's."""

    gt: BoxTable
    tutor: BoxTable

    def of(self, teacher: str) -> BoxTable:
        """Return the boxes of ``gt`` or ``tutor``."""
        return self.gt if teacher == "gt" else self.tutor


@dataclass(frozen=True)
class BoxSample:
    """The same of one sample."""

    gt: Detections
    tutor: Detections

    @classmethod
    def collate(cls, samples: Sequence[BoxSample]) -> BoxBatch:
        """Stack the boxes of samples."""
        gt, tutor = ([sample.gt for sample in samples], [sample.tutor for sample in samples])
        return BoxBatch(BoxTable.stacked(gt), BoxTable.stacked(tutor))


class BoxReader:
    """Reads boxes: the devkit's, parsed beforehand, and the tutor's from the store."""

    def __init__(self, sources: Sources) -> None:
        taught = sources.rows.of_term("detection_gt") > 0
        self.cache = sources.cache
        self.config = sources.config
        self.truth = read_truth(sources.devkit, sources.rows, taught, sources.config.data.difficult)

    def begin(self, row: ImageTargets) -> Begun:
        """See `Reader`."""
        gt, tutor = self.gt(row), self._tutor(row)
        landmarks = np.concatenate([gt.boxes, tutor.boxes[tutor.scores >= SURE]])
        return Begun(landmarks, functools.partial(self._cut, gt, tutor))

    def gt(self, row: ImageTargets) -> Detections:
        """Return the ground truth of an image that learns detection from it, in its pixels."""
        if not row.of("detection_gt"):
            return Detections.none()
        boxes, labels = self.truth.of(row.image_id)
        return Detections(boxes, labels, np.ones(len(labels), np.float32))

    def _tutor(self, row: ImageTargets) -> Detections:
        if not row.of("detection_tutor") or self.cache is None:
            return Detections.none()
        found = self.cache.boxes(row.image_id)
        return found.take(found.scores >= self.config.targets.detection.threshold)

    def _cut(
        self, gt: Detections, tutor: Detections, transform: Transform, _: Mapping[str, Any]
    ) -> BoxSample:
        """Transform both in one go: numpy's price is by the call."""
        if not self.config.targets.detection.confidence_weighting:
            tutor = replace(tutor, scores=np.ones_like(tutor.scores))
        least = self.config.augmentation.min_box
        boxes, keep = transform.boxes(np.concatenate([gt.boxes, tutor.boxes]), least)
        known, said = keep[: len(gt.labels)], keep[len(gt.labels) :]
        kept = int(known.sum())
        return BoxSample(
            Detections(boxes[:kept], gt.labels[known], gt.scores[known]),
            Detections(boxes[kept:], tutor.labels[said], tutor.scores[said]),
        )


class AnchorHeads(nn.ModuleList):
    """A head for every map."""

    def forward(self, maps: Sequence[Tensor]) -> AnchorOutput:
        """Maps (B, inputs, s, s), finest first -> offsets and logits of all anchors."""
        found = [head(x) for head, x in zip(self, maps, strict=True)]
        offsets, logits = zip(*found, strict=True)
        return AnchorOutput(torch.cat(offsets, dim=1), torch.cat(logits, dim=1))


class ImageBoxes(NamedTuple):
    """Boxes of one image."""

    found: Detections
    true: Annotation


class BoxScorer:
    """Average precision over the images of a list, all of which need boxes in the devkit.

    Raises:
        StudentError: Some have none.
    """

    def __init__(self, task: Detection, scoring: Scoring) -> None:
        self.task = task
        self.scoring = scoring
        self.found: dict[str, ImageBoxes] = {}
        devkit, ids = scoring.devkit, scoring.image_ids
        if lacking := sorted(image_id for image_id in ids if not devkit.has_boxes(image_id)):
            raise StudentError(
                f"{len(lacking)} of the {len(ids)} images to evaluate on have no boxes in "
                f"{devkit.root / 'Annotations'}, {lacking[0]} for one: evaluate on a list with "
                "ground truth"
            )

    def update(
        self,
        names: Sequence[str],
        decoded: Tensor,
        sizes: Sequence[tuple[int, int]],
        true: Sequence[Annotation],
    ) -> Callable[[], None]:
        """See `Scorer`."""
        found = self.task.fetch(decoded, sizes)
        return lambda: self.found.update(zip(names, map(ImageBoxes, found(), true), strict=True))

    def result(
        self, found: Sequence[Mapping[str, ImageBoxes]], earlier: Mapping[str, Any]
    ) -> DetectionResult:
        """See `Scorer`."""
        together = {name: boxes for part in found for name, boxes in part.items()}
        ordered = {image_id: together[image_id] for image_id in self.scoring.image_ids}
        return evaluate_detections(
            {image_id: each.found for image_id, each in ordered.items()},
            {image_id: each.true for image_id, each in ordered.items()},
            metric=self.scoring.metric,
            names=self.scoring.devkit.labels.all_names,
        )


class Detection(Task):
    """See the module; the first weights have variance 0.1 / fan-in: scores, offsets near zero."""

    name = "detection"
    colour = "tab:blue"
    losses = {"/class": "tab:blue", "/box": "tab:orange"}  # noqa: RUF012
    measure = DetectionResult.measure
    waits = True
    says = "detections"
    ending = ".json"
    exports = {  # noqa: RUF012
        "boxes": "x1 y1 x2 y2 relative to the image, before non-maximum suppression",
        "probabilities": "of the classes, 0 the background, (batch, A, C)",
    }
    sidecar = """\
[output]
batched = true
boxes = "boxes"
class_confidences = "probabilities"
box_frame = "relative"
nms = {nms}
classes = {classes}
"""

    def labelled(self, present: Availability) -> frozenset[str]:
        """See `Task`."""
        return present.boxes

    def roles(self, targets: TargetsConfig) -> frozenset[str]:
        """See `Task`."""
        return frozenset({"detection"})

    def reader(self, sources: Sources, others: Mapping[str, Any]) -> BoxReader:
        """See `Task`."""
        return BoxReader(sources)

    def noise(self, rng: np.random.Generator, config: ModelConfig) -> BoxSample:
        """See `Task`."""
        corners = rng.uniform(0, 0.5, (OBJECTS, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.5, (OBJECTS, 2))], axis=1)
        labels = rng.integers(1, config.num_classes, OBJECTS)
        gt = Detections(boxes.astype(np.float32), labels, np.ones(OBJECTS, np.float32))
        return BoxSample(gt, Detections.none())

    def head(self, inputs: int, config: ModelConfig) -> AnchorHeads:
        """See `Task`."""
        per_cell, classes = config.anchors_per_cell, config.num_classes
        return AnchorHeads([AnchorHead(inputs, per_cell, classes) for _ in config.map_sides])

    def initialise(self, module: nn.Module) -> None:
        """See `Task`."""
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(0.1 / module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def lesson(self, taught: Taught, teacher: str) -> Matches:
        """See `Task`."""
        table: BoxTable = taught.batch.parts[self.name].of(teacher)
        return taught.match(taught.anchors, table.boxes, table.labels, table.scores)

    def loss(
        self, output: AnchorOutput, lesson: Matches, weights: Tensor, targets: TargetsConfig
    ) -> dict[str, Tensor]:
        """See `Task`."""
        loss = detection_loss(output.logits, output.offsets, lesson, weights)
        return {"/class": loss.classification, "/box": loss.box}

    def decode(self, outputs: Mapping[str, Any], view: View) -> Tensor:
        """See `Task`; (B, N, 7), see `detected_rows`, which later tasks find in the memo."""
        rows = detected_rows(outputs[self.name], view.anchors, view.limits)
        view.memo[self.name] = rows
        return rows

    def fetch(
        self, decoded: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> Callable[[], list[Detections]]:
        """See `Task`."""
        rows = on_its_way(decoded)
        return lambda: detections_of(rows(), sizes)

    def overlay(self, said: Detections, threshold: float) -> dict[str, Any]:
        """See `Task`."""
        drawn = said.take(said.scores >= threshold)
        return {"boxes": drawn.boxes, "labels": drawn.labels, "scores": drawn.scores}

    def write(self, path: Path, prediction: Prediction, photograph: Path, labels: LabelSet) -> None:
        """Write all boxes, in continuous 0-based pixels x1 y1 x2 y2."""
        found: Detections = prediction.detections
        height, width = prediction.size
        boxes = [
            {
                "class": labels.all_names[label],
                "confidence": round(float(confidence), 6),
                "box": [round(float(side), 2) for side in box],
            }
            for box, label, confidence in zip(found.boxes, found.labels, found.scores, strict=True)
        ]
        size = {"width": width, "height": height}
        write_json(path, {"image": str(photograph), **size, "boxes": boxes})

    def export(self, output: AnchorOutput, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) relative to the image, 0..1, and probabilities (B, A, C) of each."""
        boxes = decode_boxes(output.offsets, anchors).clamp(0, 1)
        return boxes, torch.softmax(output.logits, dim=-1)

    def truth(
        self, devkit: Devkit, folder: str, image_id: str, size: tuple[int, int]
    ) -> Annotation:
        """See `Task`.

        Raises:
            DevkitError: The XML file is wrong.
            StudentError: There is none.
        """
        annotation = devkit.annotation(image_id, size)
        if annotation is None:
            raise StudentError(f"{devkit.annotation_path(image_id)} does not exist")
        return annotation

    def scorer(self, scoring: Scoring) -> BoxScorer:
        """See `Task`."""
        return BoxScorer(self, scoring)
