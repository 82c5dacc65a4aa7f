"""Stage 1: run the tutors over images and fill a tutor cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcli.cache.format.root import Root
from kdcli.cache.writer import CacheWriter, Shard
from kdcli.cache.writing.worker import WorkerWriter
from kdcli.common.config import flatten
from kdcli.common.errors import TutorError
from kdcli.common.images import ImageEntry
from kdcli.common.names import difference
from kdcli.common.progress import Progress, no_progress
from kdcli.common.versions import environment
from kdcli.tutor_gen.pipeline.label import LoaderSettings, Tally, label_shards
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.pipeline.process_group import ProcessGroup, single_process
from kdcli.tutor_gen.tutors.device import device_environment
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images


@dataclass(frozen=True)
class GenerationResult:
    """What one run did.

    Attributes:
        images: images labelled in this run.
        skipped: images that an earlier run had labelled.
        failed: reason by image id, of images that could not be read.
        dropped: instances that did not reach the cache, by role and reason, such as
            ``{"detection": {"class": 812, "floor": 40}}``; ``"clipped"`` ones did reach it.
        seconds: wall time of labelling and writing.
    """

    images: int
    skipped: int
    failed: Mapping[str, str]
    dropped: Mapping[str, Mapping[str, int]]
    seconds: float


def generate(
    devkit: Devkit,
    image_ids: Sequence[str],
    tutors: TutorPair,
    out: Path | str,
    *,
    group: ProcessGroup | None = None,
    progress: Progress = no_progress,
) -> GenerationResult:
    """Label images with the tutors and store the result; go on where an earlier run ended.

    An image that cannot be read is recorded as failed and the run goes on. Interrupted at any
    moment, the same call later repeats at most one shard of each process and the few images that
    were on their way.

    Args:
        devkit: where the photographs lie.
        image_ids: which of them.
        tutors: and what becomes of their answers; see `tutor_gen.registry.load_tutors`.
        out: the cache's folder.
        group: the processes of the run, if there are several; each calls this function with the
            same arguments. Only the one that leads returns what all of them did.
        progress: wraps the loop over images for a progress bar.

    Raises:
        TutorError: an output cannot be true, or the tutors were loaded for other labels.
        DevkitError: a photograph is missing.
        CacheError: the cache at ``out`` was begun with other images or settings, or is in use.
    """
    _check_labels(devkit, tutors)
    group = group or single_process()
    runtime = tutors.config.runtime
    loader = LoaderSettings.of(runtime)
    start = time.perf_counter()
    if not group.is_main:
        return _result(_follow(group, devkit, tutors, Path(out), loader), 0, start)
    entries = scan_images(devkit, image_ids)
    made = _environment(loader) | {"config": _how_labelled(tutors)}
    with CacheWriter.open(
        out, entries, tutors.settings, made, images_per_shard=runtime.images_per_shard
    ) as writer:
        tally = _lead(group, devkit, tutors, writer, loader, progress)
        writer.finish()
    return _result(tally, len(entries) - tally.images, start)


def _check_labels(devkit: Devkit, tutors: TutorPair) -> None:
    differs = difference(tutors.labels.names, devkit.labels.names, "the tutors", "the data set")
    if differs:
        raise TutorError(
            f"the tutors were loaded for other labels than those of {devkit.root}: {differs}; load "
            "them for these: load_tutors(config, devkit.labels)"
        )


@dataclass(frozen=True)
class _Task:
    """What the leading process tells the others: the cache's root, and the shards of each."""

    root: Root
    shards: Sequence[Sequence[Shard]]


def _lead(
    group: ProcessGroup,
    devkit: Devkit,
    pair: TutorPair,
    writer: CacheWriter,
    loader: LoaderSettings,
    progress: Progress,
) -> Tally:
    """Give every process its shards, label those of this one, wait for the others."""
    pending = writer.pending()
    task = _Task(writer.root, divide(pending, writer.is_new, group.size))
    group.tell("task", task)
    todo = [entry for shard in pending for entry in shard.images]
    bar = _Bar(progress, todo)

    def advance(images: int) -> None:
        bar.show(group.advance(images))

    tally = label_shards(devkit, task.shards[0], pair, writer.write, loader, advance)
    for done in group.wait_for(len(todo)):
        bar.show(done)
    for rank in range(1, group.size):
        tally.add(group.ask("tally", rank))
    return tally


def _follow(
    group: ProcessGroup, devkit: Devkit, pair: TutorPair, out: Path, loader: LoaderSettings
) -> Tally:
    """Label the shards that the leading process gives to this one."""
    task: _Task = group.ask("task", 0)
    with WorkerWriter(out, task.root, pair.settings, group.rank) as writer:
        shards = task.shards[group.rank]
        tally = label_shards(devkit, shards, pair, writer.write, loader, group.advance)
    group.tell("tally", tally)
    return tally


def divide(
    pending: Sequence[Shard], is_new: Callable[[Shard], bool], processes: int
) -> list[list[Shard]]:
    """Divide shards evenly; those of which only failed images are left go to the first process.

    They are merged into what is on disk, which only the process that opened the cache may do.
    """
    new = [shard for shard in pending if is_new(shard)]
    shares = [new[rank::processes] for rank in range(processes)]
    shares[0] = sorted(
        [*shares[0], *(shard for shard in pending if not is_new(shard))], key=lambda s: s.index
    )
    return shares


class _Bar:
    """A progress bar that is told how many images are done, by whichever process."""

    def __init__(self, progress: Progress, todo: Sequence[ImageEntry]) -> None:
        self._items = iter(progress(todo, len(todo), "tutors"))
        self._shown = 0
        next(self._items, None)  # the image under way; one is done when the next is taken

    def show(self, done: int) -> None:
        while self._shown < done:
            next(self._items, None)
            self._shown += 1


def _how_labelled(tutors: TutorPair) -> dict[str, Any]:
    """The settings that say how a run labels, for its provenance; not which images or how fast.

    Tutors of one's own are none that the configuration names.
    """
    settings = flatten(tutors.config)
    names = (name for name in settings if "." in name and not name.startswith("runtime."))
    own = () if tutors.loaded else ("tutor", "weights")
    return {name: settings[name] for name in names if name.split(".")[1] not in own}


def _environment(loader: LoaderSettings) -> dict[str, Any]:
    """Versions, device; and the batch size where the last bits may depend on it."""
    batch = {"batch_size": str(loader.batch_size)} if loader.batch_size > 1 else {}
    return environment() | device_environment(loader.device) | batch


def _result(tally: Tally, skipped: int, start: float) -> GenerationResult:
    return GenerationResult(
        images=tally.images - len(tally.failed),
        skipped=skipped,
        failed=tally.failed,
        dropped={role: dict(counts) for role, counts in tally.dropped.items() if counts},
        seconds=time.perf_counter() - start,
    )
