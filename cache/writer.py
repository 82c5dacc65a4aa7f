"""Writing a cache: shards are committed one by one, and the last write declares it complete."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kdcli.cache.format.images import check_images, plain_json, plain_settings
from kdcli.cache.format.layout import GENERATING, IMAGES_PER_SHARD, JSON, LOCK, PARTS, ROOT
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.format.root import Root
from kdcli.cache.writing.outputs import encode_outputs
from kdcli.cache.writing.part import EncodedImage
from kdcli.cache.writing.resume import State, begin, make_folder, reopen, resume
from kdcli.cache.writing.shard import Shard, commit_shard, done_part, load_shard
from kdcli.cache.writing.tables import write_tables
from kdcli.cache.writing.worker import refuse_workers
from kdcli.common.errors import CacheError
from kdcli.common.images import ImageEntry
from kdcli.common.lock import Lock

__all__ = ["CacheWriter", "Shard"]


class CacheWriter:
    """One generation run on one cache, new or resumed. Use as a context manager.

    >>> with CacheWriter.open(path, images, settings, environment) as writer:  # doctest: +SKIP
    ...     for shard in writer.pending():
    ...         writer.write(shard, [label(entry) for entry in shard.images])
    ...     writer.finish()

    Killed at any moment and opened again with the same arguments, ``pending()`` offers what is not
    done yet. ``damaged`` lists the files whose shards are redone because they no longer match
    their digests.
    """

    def __init__(
        self, path: Path, lock: Lock, state: State, images: Sequence[ImageEntry], environment: JSON
    ) -> None:
        self._path = path
        self._lock = lock
        self._root = state.root
        self._images = tuple(images)
        self._environment = environment
        self._done = dict(state.done)
        """Done shards, and the positions of the failed images in each."""
        self._tried: set[int] = set()
        """Shards written in this run: their failures are not offered again."""
        self.damaged = state.damaged

    @classmethod
    def open(
        cls,
        path: str | Path,
        images: Sequence[ImageEntry],
        settings: JSON,
        environment: JSON,
        *,
        images_per_shard: int = IMAGES_PER_SHARD,
    ) -> CacheWriter:
        """Create the cache at ``path``, or go on with the one that lies there.

        ``settings`` is JSON: ``class_names`` (2 to 255, background first), ``detection`` and
        ``segmentation`` (a tutor's description or None), ``keep_masks`` (bool, default false), and
        whatever else decides what the tutors say. ``environment`` (versions, host) is only
        recorded. An existing cache keeps its ``images_per_shard``.

        Raises ``CacheError``: other settings or images than the cache was begun with (listed), an
        image file that changed since, another process at work on it, a folder that is no cache, a
        place that cannot be written.
        """
        path = Path(path)
        check_images(images)
        settings = plain_settings(settings)
        environment = plain_json(environment, "environment")
        make_folder(path)
        lock = Lock(path / LOCK, GENERATING)
        try:
            refuse_workers(path)
            if (path / ROOT).exists():
                state = resume(path, images, settings, environment)
            else:
                state = begin(path, images, settings, environment, images_per_shard)
            return cls(path, lock, state, images, environment)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. What was written stays; what was not is offered next time."""
        self._lock.release()

    @property
    def fingerprint(self) -> str:
        """What identifies the cache: see :func:`cache.format.fingerprint.fingerprint`."""
        return self._root.fingerprint

    @property
    def root(self) -> Root:
        """What workers of this run (:class:`cache.writing.worker.WorkerWriter`) need to know."""
        return self._root

    def is_new(self, shard: Shard) -> bool:
        """Whether a pending shard was never done: a whole one, not the failed images of one."""
        return shard.index not in self._done

    @property
    def complete(self) -> bool:
        """Whether the store on disk is complete, and readable."""
        return self._root.complete

    def pending(self) -> tuple[Shard, ...]:
        """What is left to write: shards not done, and the failed images of those that are.

        Images that failed in this run are not offered a second time.
        """
        shards = []
        for index in range(self._root.shards):
            entries = self._entries(index)
            if index in self._tried:
                continue
            if index in self._done:
                entries = tuple(e for i, e in enumerate(entries) if i in self._done[index])
            if entries:
                shards.append(Shard(index, entries))
        return tuple(shards)

    def write(self, shard: Shard, outputs: Sequence[TutorOutput | FailedImage]) -> None:
        """Commit a shard that ``pending()`` offered: one output per image, in its order.

        Durable when it returns; killed within, the shard is offered again. Raises ``CacheError``
        naming the image if an output breaks a rule (`cache.format.validate.check_output`), and
        ``ResourceError`` if the disk is full.
        """
        fresh = encode_outputs(self._path, self._root, shard, outputs)
        entries = self._entries(shard.index)
        if shard.index in self._done:
            if all(isinstance(output, FailedImage) for output in outputs):
                self._tried.add(shard.index)  # nothing new: what is on disk stays as it is
                return
            fresh = self._stored(shard.index) | fresh
        part = commit_shard(
            self._path, self._root, shard.index, [fresh[e.image_id] for e in entries]
        )
        self._done[shard.index] = frozenset(part.reasons)
        self._tried.add(shard.index)

    def finish(self) -> None:
        """Complete the store, whoever wrote its shards. Raises ``CacheError`` if some are not done.

        May be killed and called again; on a complete cache it does nothing.
        """
        if not self._root.complete:
            root = write_tables(self._path, self._root, self._images)
            root.write(self._path)
            self._root = root
        shutil.rmtree(self._path / PARTS, ignore_errors=True)

    def _entries(self, shard: int) -> tuple[ImageEntry, ...]:
        per_shard = self._root.images_per_shard
        return self._images[shard * per_shard : (shard + 1) * per_shard]

    def _stored(self, shard: int) -> dict[str, EncodedImage]:
        """A done shard's images by id; a complete store is taken back under way for it."""
        if self._root.complete:
            state = reopen(self._path, self._root, self._images, self._environment)
            self._root, self._done = state.root, dict(state.done)
        entries = self._entries(shard)
        part = done_part(self._path, shard)
        if part is None:
            raise CacheError(
                f"{self._path}: shard {shard} was damaged meanwhile. Run the same command again, "
                "it is labelled anew."
            )
        images = load_shard(self._path, self._root, shard, part, entries)
        return {entry.image_id: image for entry, image in zip(entries, images, strict=True)}
