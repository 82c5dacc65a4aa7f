"""Locks of folders and files: one process at a time works there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

from kdcli.common.errors import BusyError, ResourceError
from kdcli.common.files import explained

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""A file system without locks says one of these: NFS without its lock daemon, Lustre, FUSE."""

_held: set[Path] = set()
"""Locks of this process: the operating system would grant them to it a second time."""


class Lock:
    """An exclusive lock on a file of its own; gone when its process is. Use as a context manager.

    A POSIX lock: unlike ``flock``'s it is not passed on to forked workers, which might outlive a
    killed process and keep its files locked. Where the file system has no locks, that is only
    warned of: a single process gets by without.

    Args:
        path: the lock file, made if it is missing, removed when the lock is given back.
        doing: what its owner does, as in "process 7 is training there".
        wait: wait for the lock instead of refusing.
        needed: several processes of one run rely on it, so that a file system without locks is an
            error.

    Raises:
        BusyError: another process holds it.
        ResourceError: the file cannot be written or locked.
    """

    def __init__(self, path: Path, doing: str, *, wait: bool = False, needed: bool = False) -> None:
        self._path = path.absolute()
        if self._path in _held:
            raise _is_locked(path, "this process", doing)
        self._handle: int | None = _acquire(self._path, doing, wait, needed)
        _held.add(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._handle is None:
            return
        # Unlink before closing: whoever opened the old file notices that it is no longer there.
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._handle)
        self._handle = None
        _held.discard(self._path)


def _acquire(path: Path, doing: str, wait: bool, needed: bool) -> int:
    while True:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _lock(handle, path, wait, needed)
        except BaseException:
            os.close(handle)
            raise
        if not locked:
            owner = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            raise _is_locked(path, owner or "another process", doing)
        if _is_same_file(handle, path):
            with contextlib.suppress(OSError):  # it only tells a second process who is there
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
            return handle
        os.close(handle)  # its owner removed it between our open and our lock: try again


def _lock(handle: int, path: Path, wait: bool, needed: bool) -> bool:
    """Lock an open file; return False if another process has it locked."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise ResourceError(f"{path}: cannot be locked ({error.strerror})") from error
        # By its own name, as a text is warned of once, however many folders are locked there.
        disk = next(p for p in path.absolute().parents if p.is_mount())
        problem = f"The file system at {disk} has no locks ({error.strerror})"
        if needed:
            raise ResourceError(
                f"{problem}, which keep the processes of one run apart: use one process, or write "
                f"{path.parent} to another file system."
            ) from error
        warnings.warn(
            f"{problem}: see to it that only one process at a time works in a folder there.",
            stacklevel=1,
        )
    return True


def _is_locked(path: Path, owner: str, doing: str) -> BusyError:
    return BusyError(
        f"{path.parent}: {owner} is {doing}. Wait for it to end (or stop it), then run the same "
        "command again."
    )


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
