"""Semantic segmentation: a class for every pixel, from all maps together (BlitzNet paper)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdcli.cache.format.record import InstanceMasks
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.device import on_its_way
from kdcli.common.errors import StudentError
from kdcli.common.files import atomic_file
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TargetsConfig
from kdcli.student.data.geometry import FloatArray, Transform, UInt8Array
from kdcli.student.data.grid import NOWHERE, cut
from kdcli.student.data.masks import Masks, transformed
from kdcli.student.data.tables import (
    PADDING,
    BoxTable,
    InstanceTable,
    stacked_maps,
    stacked_palettes,
)
from kdcli.student.data.targets import ImageTargets
from kdcli.student.losses.losses import segmentation_loss, soft_segmentation_loss
from kdcli.student.losses.soft_labels import PixelTargets, tutor_targets
from kdcli.student.model.blocks import PixelHead
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.decode import segment
from kdcli.student.tasks.pixel_scores import PixelScorer, TrueMasks
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
from kdcli.voc.devkit import Availability, Devkit
from kdcli.voc.images import write_mask
from kdcli.voc.labels import VOID, LabelSet
from kdcli.voc.metrics import SegmentationResult

MANY_VECTORS = 256
IndexMap = npt.NDArray[np.generic]


@dataclass(frozen=True)
class PixelBatch:
    """What the pixels of B samples learn from, s the side of the maps.

    Attributes:
        masks: (B, s, s) uint8 class ids, 255 where nothing is to be learned.
        index_maps: (B, s, s) int32, rows of the palettes or `PADDING`; of a dense tutor (B, h, w)
            cells, the last ones of each repeated as padding.
        placements: (B, 8) float32, of a dense tutor's cells; None with other tutors.
        palettes: (B, K, C) float32, C classes, padded with zeros.
        confirming: Boxes that may confirm the tutor; see `PixelSample`.
        confirmable: (B,) bool, whether there are such boxes to ask, be it none.
        instances: The tutor's own masks.
    """

    masks: Tensor
    index_maps: Tensor
    placements: Tensor | None
    palettes: Tensor
    confirming: BoxTable
    confirmable: Tensor
    instances: InstanceTable


@dataclass(frozen=True)
class PixelSample:
    """What the pixels of a sample learn from, s the side of its maps.

    Attributes:
        mask: (s, s) uint8 class ids, 255 where nothing is to be learned.
        index_map: (s, s) whole numbers, the row of ``palette`` for each pixel, or `PADDING`; of a
            dense tutor (h, w) cells.
        palette: (k, C) float32 label vectors.
        placement: (8,) float32, where the sample lies among a dense tutor's cells
            (`student.data.grid`); None with other tutors.
        confirming: Boxes that may confirm what the tutor says, reaching outside the sample where
            the crop cut them; None if there is nobody to ask.
        instances: The tutor's own masks, for soft targets: mirrored with the sample, their boxes
            reaching outside it where the crop cut them.
    """

    mask: UInt8Array
    index_map: IndexMap
    palette: FloatArray
    placement: FloatArray | None
    confirming: Detections | None
    instances: InstanceMasks

    @classmethod
    def collate(cls, samples: Sequence[PixelSample]) -> PixelBatch:
        """Stack samples; what is of different lengths is padded to the longest."""
        placements = [each.placement for each in samples if each.placement is not None]
        return PixelBatch(
            masks=torch.from_numpy(np.stack([each.mask for each in samples])),
            index_maps=stacked_maps([each.index_map for each in samples]),
            placements=torch.from_numpy(np.stack(placements)) if placements else None,
            palettes=stacked_palettes([each.palette for each in samples]),
            confirming=BoxTable.stacked([each.confirming or Detections.none() for each in samples]),
            confirmable=torch.tensor([each.confirming is not None for each in samples]),
            instances=InstanceTable.stacked([each.instances for each in samples]),
        )


class PixelReader:
    """Reads class masks of the devkit, and the tutor's label vectors or masks from the store."""

    def __init__(self, sources: Sources, boxes: Any) -> None:
        """Of a data set; ``boxes`` reads those of its detection, None where it has none."""
        self.masks = Masks(sources.devkit, sources.mask_folder)
        self.cache = sources.cache
        self.targets = sources.config.targets.segmentation
        self.model = sources.config.model
        self._boxes = boxes

    def begin(self, row: ImageTargets) -> Begun:
        """See `Reader`."""
        return Begun(NO_BOXES, functools.partial(self._cut, row))

    def _cut(self, row: ImageTargets, transform: Transform, _: Mapping[str, Any]) -> PixelSample:
        index_map, palette, placement = self._label_vectors(row, transform)
        return PixelSample(
            mask=self._mask(row, transform),
            index_map=index_map,
            palette=palette,
            placement=placement,
            confirming=self._confirming(row, transform),
            instances=self._instances(row, transform),
        )

    def _mask(self, row: ImageTargets, transform: Transform) -> UInt8Array:
        side, mask = self.model.finest_side, None
        if row.of("segmentation_gt"):
            mask = self.masks.read(row.image_id, (transform.height, transform.width))
        if mask is None:
            return np.full((side, side), VOID, np.uint8)
        return transform.map(mask, side, fill=VOID).astype(np.uint8, copy=False)

    def _label_vectors(
        self, row: ImageTargets, transform: Transform
    ) -> tuple[IndexMap, FloatArray, FloatArray | None]:
        side = self.model.finest_side
        dense = self.cache is not None and self.cache.has_grids
        if not row.of("segmentation_tutor") or self.cache is None:
            empty = np.zeros((1, self.model.num_classes), np.float32)
            index_map = np.zeros((1, 1) if dense else (side, side), np.uint8)
            return index_map, empty, NOWHERE if dense else None
        whole, palette = self.cache.index_map(row.image_id), self.cache.palette(row.image_id)
        window = self.cache.window(row.image_id)
        if window is None:
            return *compact(transform.map(whole, side, fill=PADDING), palette), None
        cells, placement = cut(whole, window, transform)
        return *compact(cells, palette), placement

    def _confirming(self, row: ImageTargets, transform: Transform) -> Detections | None:
        """Boxes to check the tutor with; None where there are none to be had."""
        confirm = self.targets.confirm
        if not row.of("segmentation_tutor") or confirm == "none":
            return None
        if confirm == "tutor-boxes":
            if self.cache is None:
                return None
            found = self.cache.boxes(row.image_id)
            boxes = found.take(found.scores >= self.targets.confirm_threshold)
        elif row.of("detection_gt"):
            boxes = self._boxes.gt(row)
        else:
            return None
        return replace(boxes, boxes=transform.relative(boxes.boxes).astype(np.float32))

    def _instances(self, row: ImageTargets, transform: Transform) -> InstanceMasks:
        soft = self.targets.masks == "soft" and row.of("segmentation_tutor")
        kept = self.cache.instances(row.image_id) if soft and self.cache is not None else None
        if kept is None:
            return InstanceMasks.none()
        said = transformed(kept, transform)
        return said.take(np.all((said.boxes[:, 2:] > 0) & (said.boxes[:, :2] < 1), axis=1))


def compact(index_map: IndexMap, palette: FloatArray) -> tuple[IndexMap, FloatArray]:
    """Drop the vectors that a crop does not show, where soft label vectors made many.

    A batch pads its palettes to the longest; the few vectors of hard masks are not worth a look.
    """
    if len(palette) <= MANY_VECTORS:
        return index_map, palette
    # Row 0 is kept, shown or not: it is what padding is looked up as.
    used, compacted = np.unique(np.append(index_map, [PADDING, 0]), return_inverse=True)
    rows = compacted[:-2].reshape(index_map.shape) + PADDING
    return rows.astype(np.int32), palette[used[1:]]


class Segmentation(Task):
    """See the module; the first weights have variance 2 / (fan-in + fan-out) (Glorot)."""

    name = "segmentation"
    colour = "tab:green"
    losses = {"": "tab:green"}  # noqa: RUF012
    measure = SegmentationResult.measure
    says = "class_map"
    ending = ".mask.png"
    exports = {"segmentation": "class probabilities of the cells, (batch, C, s, s)"}  # noqa: RUF012
    sidecar = """\
[semantic]
at = "segmentation"
batched = true
values = "probabilities"
classes = {classes}
"""

    def labelled(self, present: Availability) -> frozenset[str]:
        """See `Task`."""
        return present.masks

    def roles(self, targets: TargetsConfig) -> frozenset[str]:
        """See `Task`."""
        asks_boxes = targets.segmentation.confirm == "tutor-boxes"
        return frozenset({"segmentation", "detection"} if asks_boxes else {"segmentation"})

    def check(self, config: RunConfig, cache: TutorCache) -> None:
        """See `Task`."""
        targets = config.targets.segmentation
        if targets.masks == "soft" and not cache.has_instances:
            raise StudentError(
                'targets.segmentation.masks = "soft" asks for the tutor\'s own masks, which this '
                "cache does not keep: generate it with --keep-masks"
            )
        if targets.confirm.startswith("gt") and "detection" not in config.model.tasks:
            raise StudentError(
                f'targets.segmentation.confirm = "{targets.confirm}" asks for the boxes that '
                "detection learns, which model.tasks lacks: add it there, or let tutor-boxes "
                "confirm"
            )

    def reader(self, sources: Sources, others: Mapping[str, Any]) -> PixelReader:
        """See `Task`."""
        return PixelReader(sources, others.get("detection"))

    def noise(self, rng: np.random.Generator, config: ModelConfig) -> PixelSample:
        """See `Task`."""
        shape = config.finest_side, config.finest_side
        return PixelSample(
            mask=rng.integers(0, config.num_classes, shape, dtype=np.uint8),
            index_map=np.zeros(shape, np.uint8),
            palette=np.zeros((1, config.num_classes), np.float32),
            placement=None,
            confirming=None,
            instances=InstanceMasks.none(),
        )

    def head(self, inputs: int, config: ModelConfig) -> PixelHead:
        """See `Task`."""
        maps = len(config.map_sides)
        return PixelHead(inputs, config.segmentation_width, maps, config.num_classes)

    def initialise(self, module: nn.Module) -> None:
        """See `Task`."""
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def lesson(self, taught: Taught, teacher: str) -> Tensor | PixelTargets:
        """See `Task`: classes (B, s, s), or distributions."""
        pixels: PixelBatch = taught.batch.parts[self.name]
        if teacher == "gt":
            return pixels.masks
        return tutor_targets(pixels, taught.targets.segmentation, pixels.palettes.shape[-1])

    def loss(
        self, output: Tensor, lesson: Tensor | PixelTargets, weights: Tensor, targets: TargetsConfig
    ) -> dict[str, Tensor]:
        """See `Task`."""
        if isinstance(lesson, Tensor):
            return {"": segmentation_loss(output, lesson, weights)}
        ignored = targets.segmentation.ignore_largest
        loss = soft_segmentation_loss(
            output, lesson.distributions, weights, lesson.weights, ignored
        )
        return {"": loss}

    def decode(self, outputs: Mapping[str, Any], view: View) -> list[Tensor]:
        """See `Task`; (height, width) uint8 class ids of each photograph."""
        pairs = zip(outputs[self.name], view.sizes, strict=True)
        return [segment(logits, size) for logits, size in pairs]

    def fetch(
        self, decoded: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Callable[[], list[UInt8Array]]:
        """See `Task`; in one piece."""
        if not decoded:
            return list
        pixels = on_its_way(torch.cat([each.flatten() for each in decoded]))
        ends = list(itertools.accumulate(each.numel() for each in decoded))

        def wait() -> list[UInt8Array]:
            parts = np.split(pixels(), ends[:-1])
            return [part.reshape(size) for part, size in zip(parts, sizes, strict=True)]

        return wait

    def overlay(self, said: UInt8Array, threshold: float) -> dict[str, Any]:
        """See `Task`."""
        return {"class_map": said}

    def write(self, path: Path, prediction: Prediction, photograph: Path, labels: LabelSet) -> None:
        """Write the class of every pixel, with the palette of the labels."""
        with atomic_file(path) as file:
            write_mask(file, prediction.class_map, labels.palette)

    def export(self, output: Tensor, anchors: Tensor) -> tuple[Tensor]:
        """Class probabilities of the cells, (B, C, s, s)."""
        return (torch.softmax(output, dim=1),)

    def truth(
        self, devkit: Devkit, folder: str, image_id: str, size: tuple[int, int]
    ) -> UInt8Array | None:
        """See `Task`, and ``Devkit.mask``."""
        return devkit.mask(image_id, folder, size)

    def gather(self, truths: Sequence[UInt8Array | None]) -> TrueMasks:
        """See `Task`."""
        masks = {place: mask.ravel() for place, mask in enumerate(truths) if mask is not None}
        pixels = np.concatenate([np.zeros(0, np.uint8), *masks.values()])
        return TrueMasks(list(masks), torch.from_numpy(pixels))

    def scorer(self, scoring: Scoring) -> PixelScorer:
        """See `Task`."""
        return PixelScorer(scoring)
