"""Locks: of one generator on one cache, and of any open file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import warnings
from pathlib import Path

from cache.errors import CacheError
from cache.files import Refusal, cannot_write

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""A file system without locks says one of these: NFS without its lock daemon, Lustre, FUSE."""


def lock_file(
    handle: int, path: Path, refusal: Refusal, *, wait: bool = False, needed: bool = False
) -> bool:
    """Lock the open file ``path``; return False if another process has it locked.

    A POSIX lock: unlike ``flock``'s it is not passed on to forked workers, which might outlive a
    killed process and keep its files locked.

    Where the file system has no locks, that is only warned of: a single process gets by without.
    If the lock is ``needed``, as several processes of one run rely on it, ``refusal`` is raised.
    """
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise refusal(f"{path}: cannot be locked ({error.strerror})") from error
        # By its own name, as a text is warned of once, however many folders are locked there.
        disk = next(p for p in path.absolute().parents if p.is_mount())
        problem = f"The file system at {disk} has no locks ({error.strerror})"
        if needed:
            raise refusal(
                f"{problem}, which keep the processes of one run apart: use one process, or write "
                f"{path.parent} to another file system."
            ) from error
        warnings.warn(
            f"{problem}: see to it that only one process at a time works in a folder there.",
            stacklevel=1,
        )
    return True


_held: set[Path] = set()
"""Locks of this process: the operating system would grant them to it a second time."""


class Lock:
    """An exclusive lock of one generator on one cache; gone when its process is.

    Raises ``CacheError`` if another generator has it; for ``needed`` see :func:`lock_file`.
    """

    def __init__(self, path: Path, *, needed: bool = False) -> None:
        self._path = path.absolute()
        if self._path in _held:
            raise _is_locked(path, "this process")
        self._handle: int | None = _acquire(self._path, needed)
        _held.add(self._path)

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


def _acquire(path: Path, needed: bool) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            locked = lock_file(handle, path, CacheError, needed=needed)
        except BaseException:
            os.close(handle)
            raise
        if not locked:
            owner = os.read(handle, 200).decode("utf-8", "replace").strip()
            os.close(handle)
            raise _is_locked(path, owner or "another process")
        if _is_same_file(handle, path):
            with contextlib.suppress(OSError):  # it only tells a second generator who is there
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
            return handle
        os.close(handle)  # its owner removed it between our open and our lock: try again


def _is_locked(path: Path, owner: str) -> CacheError:
    return CacheError(
        f"{path.parent}: {owner} is generating into this cache. Wait for it to end (or stop it), "
        "then run the same command again."
    )


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
