"""Data files mapped into memory, their sizes watched, their shard indexes parsed once."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.codec import decode_index, index_bytes
from kdcli.common.errors import CacheError

REMEDY = (
    "Restore the file from a copy, or run the same generate-tutors command again: it redoes the "
    "images concerned and no others."
)

MAX_MAPS = 128
"""Files mapped at once: each holds a file descriptor, of which a process has about 1,000."""

MAX_INDEXES = 4096
"""Parsed shard indexes kept, 1 kB each as a rule; one is parsed again in some microseconds."""


def damaged(path: Path, what: object) -> CacheError:
    """The error for a file that is not what was written, with the remedy."""
    return CacheError(damaged_message(path, what))


def damaged_message(path: Path, what: object) -> str:
    """What to say of a file that is not what was written."""
    return f"{path}: damaged: {what}. {REMEDY}"


def missing_message(path: Path) -> str:
    """What to say of a file that is gone."""
    return f"{path}: missing. {REMEDY}"


class MappedFiles:
    """The data files of one cache, mapped when first touched, those used least let go.

    Without a lock, which a fork might copy while it is held: every step on the two plain dicts is
    atomic by itself (an OrderedDict's are not: it can be left broken), and at worst a file is
    mapped twice.

    A file's size is compared with the recorded one before it is mapped and before each access:
    touching a mapped page beyond the end of a truncated file would kill the process (SIGBUS).
    """

    def __init__(self, cache: Path, files: Mapping[str, tuple[int, str]]) -> None:
        self._cache = cache
        self._files = files
        self._maps: dict[str, mmap.mmap] = {}
        self._indexes: dict[str, NDArray[np.uint64]] = {}

    def path(self, name: str) -> Path:
        """Where the file lies."""
        return self._cache / name

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes of a file; ``CacheError`` if it is missing or has another size."""
        view = self._maps.pop(name, None) or self._map(name)
        self._maps[name] = view  # behind all others: those used least are let go first
        if view.size() != len(view):
            raise damaged(self.path(name), f"expected {len(view)} bytes, got {view.size()}")
        return view[start:stop]

    def index(self, name: str, chunks: int) -> NDArray[np.uint64]:
        """The (chunks, 2) offsets and lengths of a shard's chunks, parsed once."""
        entries = self._indexes.get(name)
        if entries is None:
            size = self._files[name][0]
            content = self.read(name, max(0, size - index_bytes(chunks)), size)
            try:
                entries = decode_index(content, size)
            except ValueError as error:
                raise damaged(self.path(name), error) from error
            _let_go(self._indexes, MAX_INDEXES)
            self._indexes[name] = entries
        return entries

    def _map(self, name: str) -> mmap.mmap:
        path = self.path(name)
        try:
            view = self._open(path, self._files[name][0])
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise _cannot_read(path, error) from error
            # Others in this process (a DataLoader, say) need many files: do with one.
            self._maps.clear()
            try:
                view = self._open(path, self._files[name][0])
            except OSError as again:
                raise _cannot_read(path, again) from again
        _let_go(self._maps, MAX_MAPS)
        return view

    def _open(self, path: Path, expected: int) -> mmap.mmap:
        try:
            with path.open("rb") as handle:
                size = handle.seek(0, os.SEEK_END)
                if size != expected:
                    raise damaged(path, f"expected {expected} bytes, got {size}")
                view = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise CacheError(missing_message(path)) from error
        if hasattr(mmap, "MADV_RANDOM"):
            # Without it the kernel reads 128 kB and more around each touched page.
            view.madvise(mmap.MADV_RANDOM)
        return view


def _let_go(held: dict[str, Any], limit: int) -> None:
    """Make room for one more. Maps are not closed: another thread may be reading one, which goes
    with its last reference.
    """
    names = list(held) if len(held) >= limit else []
    for oldest in names[: len(names) - limit + 1]:
        held.pop(oldest, None)


def _cannot_read(path: Path, error: OSError) -> CacheError:
    return CacheError(f"{path}: cannot be read ({error.strerror or error})")
