"""Several processes on one run: one opens the cache, the others write whole shards beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kdcli.cache.format.images import plain_settings
from kdcli.cache.format.layout import GENERATING, JSON, LOCK
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.format.root import Root
from kdcli.cache.writing.outputs import encode_outputs
from kdcli.cache.writing.resume import check_settings
from kdcli.cache.writing.shard import Shard, commit_shard
from kdcli.common.lock import Lock


class WorkerWriter:
    """Writes shards of a run that another process opened. Use as a context manager.

    The process with the ``CacheWriter`` opens the cache, gives each worker shards that its
    ``pending()`` offers and that are whole (``CacheWriter.is_new``), keeps its own lock until all
    are done, and calls ``finish()``. A worker holds a lock of its own (``.lock.1`` and so on):
    while it is at work nobody else may open the cache, even if the process that opened it is dead.

    Args:
        path: of the cache.
        root: ``CacheWriter.root`` of the process that opened it.
        settings: what decides this process' output, see ``CacheWriter.open``.
        number: of this worker, 1 or more, no two alike.

    Raises ``CacheError`` if its settings differ from the cache's (other weights on this machine),
    another process holds this worker's lock, or the file system has no locks.
    """

    def __init__(self, path: str | Path, root: Root, settings: JSON, number: int) -> None:
        self._path = Path(path)
        check_settings(self._path, root, plain_settings(settings))
        self._root = root
        self._lock = Lock(self._path / f"{LOCK}.{number}", GENERATING, needed=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def write(self, shard: Shard, outputs: Sequence[TutorOutput | FailedImage]) -> None:
        """Commit a whole shard, as ``CacheWriter.write`` does."""
        encoded = encode_outputs(self._path, self._root, shard, outputs)
        images = [encoded[entry.image_id] for entry in shard.images]
        commit_shard(self._path, self._root, shard.index, images)


def refuse_workers(path: Path) -> None:
    """``CacheError`` if a worker of another run is still at work on the cache at ``path``."""
    for lock in sorted(path.glob(f"{LOCK}.*")):
        Lock(lock, GENERATING).release()
