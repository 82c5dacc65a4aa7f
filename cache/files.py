"""Files that are either whole or absent: atomic writes, digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from cache.errors import CacheError

TEMPORARY = ".tmp"
"""Suffix of a file that is still being written; leftovers are removed by the next generator."""


def sync(paths: Iterable[Path]) -> None:
    """Make files, and their names in their folders, survive a power cut.

    Side by side: the file system then writes its journal once for all, not once per file (50 files:
    0.015 s instead of 0.27 s).
    """
    files = list(paths)
    with ThreadPoolExecutor(max_workers=16) as pool:
        list(pool.map(_sync_one, files))
        list(pool.map(_sync_one, sorted({path.parent for path in files})))


def _sync_one(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error


Refusal = Callable[[str], Exception]
"""Makes a message the caller's error: its room's class."""


@contextlib.contextmanager
def explained(path: Path, refusal: Refusal = CacheError) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into one message with the way out."""
    try:
        yield
    except OSError as error:
        raise refusal(_why_not_written(path, error)) from error


@contextlib.contextmanager
def atomic_file(path: Path, refusal: Refusal = CacheError) -> Iterator[BinaryIO]:
    """A file to write that appears under ``path`` only when the block ends without an error.

    It survives the end of the process, and with :func:`sync` that of the machine. Raises
    ``refusal`` where the file cannot be written: full disk, no permission.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with explained(path, refusal):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as handle:
                yield handle
            temporary.replace(path)
        except BaseException:  # Ctrl-C too: nothing half-written stays behind
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_atomic(path: Path, content: bytes, refusal: Refusal = CacheError) -> None:
    """Replace ``path`` by ``content``, all or nothing; see :func:`atomic_file`."""
    with atomic_file(path, refusal) as handle:
        handle.write(content)


def cannot_write(path: Path, error: OSError) -> CacheError:
    """The ``CacheError`` for an operating system's refusal, with the way out."""
    return CacheError(_why_not_written(path, error))


def _why_not_written(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{path}: {_what_is_full(path, error)}. What is finished is kept: free some space "
            "there and run the same command again."
        )
    return (
        f"{path}: cannot be written ({error.strerror or error}). Choose a place where you may "
        "write, or correct the permissions, and run the same command again."
    )


def _what_is_full(path: Path, error: OSError) -> str:
    if error.errno == errno.EDQUOT:
        return "your share of the disk (quota) is used up"
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return "the disk is full"
    if disk.f_files and not disk.f_favail:
        return "the disk is full (it has room for no further file: no inodes are left)"
    return f"the disk is full ({disk.f_bavail * disk.f_frsize / 2**20:.1f} MiB free)"


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
