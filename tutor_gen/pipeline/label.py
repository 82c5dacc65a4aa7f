"""What one process of a run does: read ahead, ask the tutors, code and write beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.writing.shard import Shard
from kdcli.common.device import use_device
from kdcli.common.images import ImageEntry
from kdcli.tutor_gen.config import RuntimeConfig
from kdcli.tutor_gen.pipeline.background import Background
from kdcli.tutor_gen.pipeline.pair import Answers, TutorPair
from kdcli.tutor_gen.pipeline.read_ahead import Photographs, Place, plan_batches, read_ahead
from kdcli.tutor_gen.tutors.device import explained_shortage
from kdcli.voc.devkit import Devkit

Outputs = Sequence[TutorOutput | FailedImage]

IMAGES_WAITING = 8
"""Labelled images that may wait to be coded: their pasted masks take up to 20 MB each."""


@dataclass(frozen=True)
class LoaderSettings:
    """How a run uses the machine.

    Attributes:
        workers: processes that read and resize photographs ahead of the tutors; 0 for none.
        batch_size: images that pass the networks together, of one padded shape. Beyond 1 the last
            bits of what they say depend on it.
        device: the PyTorch device that the tutors compute on.
    """

    workers: int = 0
    batch_size: int = 1
    device: str = "cpu"

    @classmethod
    def of(cls, runtime: RuntimeConfig) -> LoaderSettings:
        """Return what a configuration means on this machine."""
        device = str(use_device(runtime.device))
        workers = runtime.workers
        if workers < 0:
            workers = 4 if device.startswith("cuda") else 1
        return cls(workers, runtime.batch_size, device)

    @property
    def pin_memory(self) -> bool:
        """Whether photographs wait in page-locked memory: with a GPU."""
        return self.device.startswith("cuda")


@dataclass
class Tally:
    """What a process did.

    Attributes:
        images: how many images it went through.
        failed: reason by image id, of those that could not be read.
        dropped: instances that did not reach the cache, by role and reason.
    """

    images: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add what another process did."""
        self.images += other.images
        self.failed |= other.failed
        for role, counts in other.dropped.items():
            self.dropped.setdefault(role, Counter()).update(counts)


def label_shards(
    devkit: Devkit,
    shards: Sequence[Shard],
    pair: TutorPair,
    write: Callable[[Shard, Outputs], None],
    loader: LoaderSettings,
    advance: Callable[[int], object],
) -> Tally:
    """Label shards and write each as soon as it is whole.

    Args:
        devkit: where the photographs lie.
        shards: what to label.
        pair: the tutors.
        write: takes a shard and its images' outputs; called from another thread, one at a time.
        loader: how to use the machine.
        advance: told how many more images the tutors have seen.

    Raises:
        TutorError: an output cannot be true.
        DevkitError: a photograph changed since it was listed.
        CacheError: by ``write``.
    """
    ways = pair.preparations
    batches = read_ahead(
        Photographs(devkit, shards, ways),
        plan_batches(shards, ways, loader.batch_size),
        workers=loader.workers,
        pin_memory=loader.pin_memory,
    )
    scribe = _Scribe(shards, pair, write)
    with Background(scribe.note, IMAGES_WAITING) as background:
        for batch in batches:
            good = [read for read in batch if read.failure is None]
            with explained_shortage(len(good)):
                answers = pair.ask([read.views for read in good]) if good else []
            for read, answer in zip(good, answers, strict=True):
                background.put(_Said(read.place, answer))
            for read in batch:
                if read.failure is not None:
                    background.put(_Said(read.place, read.failure))
            advance(len(batch))
    return scribe.tally


@dataclass(frozen=True, eq=False)
class _Said:
    """What the tutors said about an image, or why it could not be read."""

    place: Place
    what: Answers | str


class _Scribe:
    """Codes what the tutors said, and writes the shards whose images are all there."""

    def __init__(
        self, shards: Sequence[Shard], pair: TutorPair, write: Callable[[Shard, Outputs], None]
    ) -> None:
        self._shards = shards
        self._pair = pair
        self._write = write
        self._noted: dict[int, dict[int, TutorOutput | FailedImage]] = {}
        self.tally = Tally()

    def note(self, said: _Said) -> None:
        """Take one image."""
        position, i = said.place
        shard, noted = self._shards[position], self._noted.setdefault(position, {})
        noted[i] = self._output(shard.images[i], said.what)
        if len(noted) == len(shard.images):
            self._write(shard, [noted[i] for i in range(len(noted))])
            del self._noted[position]

    def _output(self, entry: ImageEntry, what: Answers | str) -> TutorOutput | FailedImage:
        self.tally.images += 1
        if isinstance(what, str):
            self.tally.failed[entry.image_id] = what
            return FailedImage(entry.image_id, what)
        output, lost = self._pair.record(what, entry.image_id, entry.height, entry.width)
        for role, counts in lost.items():
            self.tally.dropped.setdefault(role, Counter()).update(counts)
        return output
