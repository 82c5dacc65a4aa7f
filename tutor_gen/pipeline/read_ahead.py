"""Photographs read, decoded and resized ahead of the networks, by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch.utils.data import DataLoader, Dataset

from kdcli.cache.writing.shard import Shard
from kdcli.common.errors import DevkitError, TutorError
from kdcli.common.files import sha256_file
from kdcli.common.images import ImageEntry
from kdcli.common.workers import read_batches, worker_options
from kdcli.tutor_gen.tutors.preparation import Preparation, Views, prepare
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_photograph

Place = tuple[int, int]
"""An image's shard, by its position in the run, and the image's position in the shard."""


@dataclass(frozen=True, eq=False)
class Read:
    """A photograph as a worker hands it over.

    Attributes:
        place: of the image in the run.
        entry: of the image in the cache.
        views: the image, prepared in every way; empty if that failed.
        changed: whether it is another photograph than the one in the cache's list.
        failure: why it could not be read, or None.
    """

    place: Place
    entry: ImageEntry
    views: Views
    changed: bool = False
    failure: str | None = None

    def pin_memory(self) -> Read:
        """Return it with its pixels in page-locked memory; PyTorch's loader asks for it."""
        return replace(self, views={way: view.pin_memory() for way, view in self.views.items()})


def plan_batches(
    shards: Sequence[Shard], ways: Sequence[Preparation], batch_size: int
) -> list[list[Place]]:
    """Divide shards into batches; a function of the image sizes alone.

    Images of a batch belong to one shard and have the same padded shape in each of ``ways``, so
    that no image is padded further than it is alone. Shards come one after another, so that each is
    written before the next but one begins.
    """
    plan = []
    for position, shard in enumerate(shards):
        groups: dict[tuple[tuple[int, int], ...], list[Place]] = {}
        for i, entry in enumerate(shard.images):
            shapes = tuple(way.padded_shape(entry.height, entry.width) for way in ways)
            groups.setdefault(shapes, []).append((position, i))
        batches = [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ]
        plan += sorted(batches)
    return plan


class Photographs(Dataset[Read]):
    """The photographs of a run's shards, prepared; addressed by `Place`."""

    def __init__(
        self, devkit: Devkit, shards: Sequence[Shard], ways: Sequence[Preparation]
    ) -> None:
        self.devkit = devkit
        self.shards = tuple(shards)
        self.ways = tuple(ways)

    def __getitem__(self, place: Place) -> Read:
        entry = self.shards[place[0]].images[place[1]]
        path = self.devkit.image_path(entry.image_id)
        try:
            image = read_photograph(path)
            views = prepare(self.ways, image)
        except (DevkitError, TutorError) as error:
            return Read(place, entry, {}, failure=str(error))
        size, listed = image.shape[:2], (entry.height, entry.width)
        changed = size != listed or sha256_file(path) != entry.sha256
        return Read(place, entry, views, changed)


def read_ahead(
    photographs: Photographs, plan: Sequence[list[Place]], *, workers: int, pin_memory: bool
) -> Iterator[list[Read]]:
    """Return the plan's batches in its order; the workers start before it returns.

    Args:
        photographs: what to read.
        plan: see `plan_batches`.
        workers: processes that read; 0 reads in this one.
        pin_memory: whether a GPU will copy the pixels.

    Raises:
        DevkitError: a photograph is another one than when it was listed.
        ResourceError: the system refuses what workers need.
    """
    loader = DataLoader(
        cast("Dataset[list[Read]]", photographs),  # what the loader yields, `list` made of them
        batch_sampler=plan,
        collate_fn=list,
        pin_memory=pin_memory,
        **worker_options(workers),
    )
    return _checked(read_batches(loader, "--workers"), photographs.devkit)


def _checked(batches: Iterator[list[Read]], devkit: Devkit) -> Iterator[list[Read]]:
    for batch in batches:
        for read in batch:
            if read.changed:
                raise DevkitError(
                    f"{devkit.image_path(read.entry.image_id)} is not the photograph that was "
                    "listed when the run began (it changed, or this machine has another copy); "
                    "start again"
                )
        yield batch
