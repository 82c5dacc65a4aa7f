"""From image ids to batches: what is read, how it is drawn, and in which order."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdcli.cache.reader import TutorCache
from kdcli.common.distributed import rank, ranks
from kdcli.common.workers import worker_options
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.assignment import on_this_visit
from kdcli.student.data.augmentation import draw_transform
from kdcli.student.data.batch import Batch, Sample, collate
from kdcli.student.data.color_jitter import draw_color_jitter
from kdcli.student.data.geometry import Transform
from kdcli.student.data.photographs import PhotographCheck
from kdcli.student.data.targets import ImageTargets, Targets, terms_of
from kdcli.student.tasks.registry import make_readers
from kdcli.student.tasks.task import Sources
from kdcli.voc.devkit import Devkit
from kdcli.voc.jpeg import Photograph


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
        terms = terms_of(config.model.tasks)
        self.devkit = devkit
        self.rows = rows if isinstance(rows, Targets) else Targets.of_rows(rows, terms)
        self.config = config
        self.readers = make_readers(Sources(devkit, cache, self.rows, config, mask_folder))
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
        begun = {task: reader.begin(row) for task, reader in self.readers.items()}
        landmarks = np.concatenate([each.landmarks for each in begun.values()])
        size = photograph.height, photograph.width
        side = config.model.input_size
        transform = draw_transform(rng, *size, landmarks, side, config.augmentation)
        jitter = draw_color_jitter(rng, config.augmentation)
        parts: dict[str, Any] = {}
        for task, each in begun.items():
            parts[task] = each.cut(transform, parts)
        sample = functools.partial(
            Sample, image_id=row.image_id, parts=parts, weights=row.weights, jitter=jitter
        )
        return sample, photograph, transform


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
