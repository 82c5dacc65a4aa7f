"""Files that are at any moment the old one or the new one, whole; and their digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from kdcli.common.errors import KdcliError, ResourceError

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


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into `ResourceError`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under ``path`` only when the block ends without an error.

    It survives the end of the process, and with `sync` that of the machine.

    Raises:
        ResourceError: it cannot be written: full disk, no permission.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as handle:
                yield handle
            temporary.replace(path)
        except BaseException:  # Ctrl-C too: nothing half-written stays behind
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``, all or nothing; see `atomic_file`."""
    with atomic_file(path) as handle:
        handle.write(content)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by a text in UTF-8, all or nothing."""
    write_atomic(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by JSON, all or nothing."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def link(path: Path, source: Path) -> None:
    """Make ``path`` a link to a file, by its full name."""
    with explained(path):
        path.symlink_to(source.resolve())


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file; what does not fit as a whole is taken back."""
    with explained(path), path.open("ab", buffering=0) as file:
        before, rest = file.seek(0, os.SEEK_END), memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(before)
            raise


def read_json(path: Path) -> Any:
    """Read JSON that this package wrote.

    Raises:
        KdcliError: the file cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KdcliError(f"Cannot read {path}: {error}") from error


def cannot_write(path: Path, error: OSError) -> ResourceError:
    """What to raise for an operating system's refusal to write ``path``, with the way out."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"{path}: {_what_is_full(path, error)}. What is finished is kept: free some space "
            "there and run the same command again."
        )
    return ResourceError(
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
