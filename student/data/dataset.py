"""From image ids to batches: what is read, how it is drawn, and in which order."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdcli.cache.format.record import InstanceMasks
from kdcli.cache.reader import TutorCache
from kdcli.common.detections import Detections
from kdcli.common.distributed import rank, ranks
from kdcli.common.workers import worker_options
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.assignment import on_this_visit
from kdcli.student.data.augmentation import draw_transform
from kdcli.student.data.batch import PADDING, Batch, Sample, collate
from kdcli.student.data.color_jitter import draw_color_jitter
from kdcli.student.data.geometry import FloatArray, Transform, UInt8Array
from kdcli.student.data.grid import NOWHERE, cut
from kdcli.student.data.ground_truth import read_truth
from kdcli.student.data.masks import Masks
from kdcli.student.data.photographs import PhotographCheck
from kdcli.student.data.targets import ImageTargets, Targets
from kdcli.voc.devkit import Devkit
from kdcli.voc.jpeg import Photograph

# A tutor's box less sure than this is no reason to crop an image around it.
SURE = 0.5
MANY_VECTORS = 256


@dataclass(frozen=True)
class Draw:
    """One image to prepare: its place in the data set's rows, and the epoch it is drawn for."""

    epoch: int
    row: int


class StudentDataset(Dataset[Sample]):
    """Training samples of the images that learn something, addressed by ``Draw``.

    All randomness of a sample comes from (seed, epoch, image id): a resumed run repeats it, in
    whatever worker.

    Args:
        devkit: Photographs and ground truth.
        cache: Tutor output; may be None if no row has a tutor's weight.
        rows: What each image learns from; all rows must learn something.
        config: Of the run.
        mask_folder: Folder of the class masks.
    """

    def __init__(
        self,
        devkit: Devkit,
        cache: TutorCache | None,
        rows: Sequence[ImageTargets],
        config: RunConfig,
        mask_folder: str,
    ) -> None:
        self.devkit = devkit
        self.cache = cache
        self.rows = rows if isinstance(rows, Targets) else Targets.of_rows(rows)
        self.config = config
        self.masks = Masks(devkit, mask_folder)
        self.map_side = config.model.segmentation_side
        self.truth = read_truth(devkit, self.rows, config.data.difficult)
        self.check = PhotographCheck.of(cache, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: Draw) -> Sample:
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[Sample]:
        """Return several samples; the DataLoader asks for a batch's all at once.

        First everything but the images, then the images. Decoding one empties the processor's
        nearest caches; done sample by sample, the small steps after it take three times as long.
        """
        begun = [self._begin(draw) for draw in draws]
        return [
            sample(image=transform.image(photograph.decode(transform.reduction)))
            for sample, photograph, transform in begun
        ]

    def _begin(self, draw: Draw) -> tuple[Callable[..., Sample], Photograph, Transform]:
        """Return a sample that lacks its image, and what the image is made of."""
        row, config = self.rows[draw.row], self.config
        key = zlib.crc32(row.image_id.encode())
        row = on_this_visit(row, config.targets, (config.seed, draw.epoch, key))
        rng = np.random.default_rng([config.seed, draw.epoch, key])
        photograph = Photograph.open(self.devkit.image_path(row.image_id))
        self.check(draw.row, row.image_id, photograph)
        gt, tutor = self._gt_boxes(row), self._tutor_boxes(row)
        landmarks = np.concatenate([gt.boxes, tutor.boxes[tutor.scores >= SURE]])
        size = photograph.height, photograph.width
        side = config.model.input_size
        transform = draw_transform(rng, *size, landmarks, side, config.augmentation)
        if not config.targets.detection.confidence_weighting:
            tutor = replace(tutor, scores=np.ones_like(tutor.scores))
        gt, tutor = _transformed(gt, tutor, transform, config.augmentation.min_box)
        jitter = draw_color_jitter(rng, config.augmentation)
        index_map, palette, placement = self._label_vectors(row, transform)
        sample = functools.partial(
            Sample,
            image_id=row.image_id,
            gt=gt,
            tutor=tutor,
            confirming=self._confirming(row, transform),
            instances=self._instances(row, transform),
            mask=self._mask(row, transform),
            index_map=index_map,
            placement=placement,
            palette=palette,
            weights=np.array(row.weights, np.float32),
            jitter=jitter,
        )
        return sample, photograph, transform

    def _gt_boxes(self, row: ImageTargets) -> Detections:
        if not row.detection_gt:
            return Detections.none()
        boxes, labels = self.truth.of(row.image_id)
        return Detections(boxes, labels, np.ones(len(labels), np.float32))

    def _tutor_boxes(self, row: ImageTargets) -> Detections:
        if not row.detection_tutor or self.cache is None:
            return Detections.none()
        targets = self.config.targets.detection
        found = self.cache.boxes(row.image_id)
        return found.take(found.scores >= targets.threshold)

    def _confirming(self, row: ImageTargets, transform: Transform) -> Detections | None:
        """Boxes to check the segmentation tutor with; None where there are none to be had."""
        targets = self.config.targets.segmentation
        if not row.segmentation_tutor or targets.confirm == "none":
            return None
        if targets.confirm == "tutor-boxes":
            if self.cache is None:
                return None
            found = self.cache.boxes(row.image_id)
            boxes = found.take(found.scores >= targets.confirm_threshold)
        elif row.detection_gt:
            boxes = self._gt_boxes(row)
        else:
            return None
        return replace(boxes, boxes=transform.relative(boxes.boxes).astype(np.float32))

    def _instances(self, row: ImageTargets, transform: Transform) -> InstanceMasks:
        soft = self.config.targets.segmentation.masks == "soft"
        kept = self.cache.instances(row.image_id) if soft and self.cache is not None else None
        if kept is None or not row.segmentation_tutor:
            return InstanceMasks.none()
        relative = transform.relative(kept.boxes).astype(np.float32)
        seen = np.all((relative[:, 2:] > 0) & (relative[:, :2] < 1), axis=1)
        masks = kept.masks[:, :, ::-1] if transform.flip else kept.masks
        return replace(kept, boxes=relative, masks=masks).take(seen)

    def _mask(self, row: ImageTargets, transform: Transform) -> UInt8Array:
        side = self.map_side
        mask = None
        if row.segmentation_gt:
            mask = self.masks.read(row.image_id, (transform.height, transform.width))
        if mask is None:
            return np.full((side, side), 255, np.uint8)
        return transform.map(mask, side, fill=255).astype(np.uint8, copy=False)

    def _label_vectors(
        self, row: ImageTargets, transform: Transform
    ) -> tuple[npt.NDArray[np.generic], FloatArray, FloatArray | None]:
        side = self.map_side
        dense = self.cache is not None and self.cache.has_grids
        if not row.segmentation_tutor or self.cache is None:
            empty = np.zeros((1, self.config.model.num_classes), np.float32)
            index_map = np.zeros((1, 1) if dense else (side, side), np.uint8)
            return index_map, empty, NOWHERE if dense else None
        whole, palette = self.cache.index_map(row.image_id), self.cache.palette(row.image_id)
        window = self.cache.window(row.image_id)
        if window is None:
            return *compact(transform.map(whole, side, fill=PADDING), palette), None
        cells, placement = cut(whole, window, transform)
        return *compact(cells, palette), placement


def compact(
    index_map: npt.NDArray[np.generic], palette: FloatArray
) -> tuple[npt.NDArray[np.generic], FloatArray]:
    """Drop the vectors that a crop does not show, where soft label vectors made many.

    A batch pads its palettes to the longest; the few vectors of hard masks are not worth a look.
    """
    if len(palette) <= MANY_VECTORS:
        return index_map, palette
    # Row 0 is kept, shown or not: it is what padding is looked up as.
    used, compacted = np.unique(np.append(index_map, [PADDING, 0]), return_inverse=True)
    rows = compacted[:-2].reshape(index_map.shape) + PADDING
    return rows.astype(np.int32), palette[used[1:]]


def _transformed(
    gt: Detections, tutor: Detections, transform: Transform, min_size: float
) -> tuple[Detections, Detections]:
    """Transform both in one go: numpy's price is by the call."""
    boxes, keep = transform.boxes(np.concatenate([gt.boxes, tutor.boxes]), min_size)
    known, said = keep[: len(gt.labels)], keep[len(gt.labels) :]
    kept = int(known.sum())
    return (
        Detections(boxes[:kept], gt.labels[known], gt.scores[known]),
        Detections(boxes[kept:], tutor.labels[said], tutor.scores[said]),
    )


class Schedule(Sampler[list[Draw]]):
    """The draws of steps ``start`` .. ``steps`` - 1, in batches.

    Each epoch is a permutation drawn from (seed, epoch), and batches run on across the border
    between two epochs. So the order is a function of the step, and a run resumed at any step goes
    on without replaying what came before.
    """

    def __init__(self, images: int, batch_size: int, seed: int, start: int, steps: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.steps = steps

    def __len__(self) -> int:
        return max(self.steps - self.start, 0)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = functools.lru_cache(maxsize=2)(self._permutation)
        for step in range(self.start, self.steps):
            positions = range(step * self.batch_size, (step + 1) * self.batch_size)
            places = (divmod(position, self.images) for position in positions)
            yield [Draw(epoch, int(order(epoch)[place])) for epoch, place in places]

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.images)


class RankSampler(Sampler[list[Draw]]):
    """One process' share of every step: of each of the step's ``micro_batches``, an equal slice."""

    def __init__(self, schedule: Schedule, micro_batches: int, rank: int, ranks: int) -> None:
        self.schedule = schedule
        self.micro_batches = micro_batches
        self.rank = rank
        self.ranks = ranks

    def __len__(self) -> int:
        return len(self.schedule) * self.micro_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.schedule.batch_size // (self.micro_batches * self.ranks)
        for draws in self.schedule:
            for index in range(self.micro_batches):
                begin = (index * self.ranks + self.rank) * size
                yield draws[begin : begin + size]


def make_loader(dataset: StudentDataset, start: int, device: torch.device) -> DataLoader[Batch]:
    """Return a loader of this process' batches from step ``start`` to the configured last one.

    A step takes ``optim.accumulate`` batches.
    """
    config = dataset.config
    optim = config.optim
    schedule = Schedule(len(dataset), optim.batch_size, config.seed, start, optim.steps)
    return DataLoader(
        cast("Dataset[Batch]", dataset),  # what the loader yields, collate made of its samples
        batch_sampler=RankSampler(schedule, optim.accumulate, rank(), ranks()),
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        **worker_options(int(fitted(config, device).runtime.workers)),
    )
