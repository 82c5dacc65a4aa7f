"""Files that are either whole or absent: atomic writes, digests, the lock of a generator."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cache.errors import CacheError

TEMPORARY = ".tmp"
"""Suffix of a file that is still being written; leftovers are removed by the next generator."""


def sync_folder(folder: Path) -> None:
    """Make the folder's entries (a rename, a new file) survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under ``path`` only when the block ends without an error.

    Raises ``CacheError`` where the file cannot be written: full disk, no permission.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        except BaseException:  # Ctrl-C too: nothing half-written stays behind
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, all or nothing."""
    with atomic_file(path) as handle:
        handle.write(content)


def cannot_write(path: Path, error: OSError) -> CacheError:
    """The ``CacheError`` for an operating system's refusal, with the way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheError(
            f"{path}: the disk is full{_free_space(path)}. Finished images are kept: free some "
            "space there and run the same command again, it goes on where it stopped."
        )
    return CacheError(
        f"{path}: cannot be written ({error.strerror or error}). Choose a place where you may "
        "write, or correct the permissions, and run the same command again."
    )


def _free_space(path: Path) -> str:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return ""
    return f" ({free / 2**20:.1f} MiB free)"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_intact(path: Path, size: int, sha256: str) -> bool:
    """Whether a file has this size and digest; False if it is missing."""
    try:
        return path.stat().st_size == size and sha256_file(path) == sha256
    except OSError:
        return False


class Lock:
    """An exclusive lock of one generator on one cache; gone when its process is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _acquire(path)

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._handle is None:
            return
        # Unlink before closing: whoever waits on the old file notices that it is no longer there.
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._handle)
        self._handle = None


def _acquire(path: Path) -> int | None:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise CacheError(
                f"{path.parent}: another process is generating into this cache. Wait for it to "
                "end (or stop it), then run the same command again."
            ) from error
        if _is_same_file(handle, path):
            return handle
        os.close(handle)  # its owner removed it between our open and our lock: try again


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
