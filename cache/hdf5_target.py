"""The file that HDF5 writes to: its writes never fail, as HDF5 crashes after a failed one."""

from __future__ import annotations

import io
import os
from typing import Any


class Target(io.RawIOBase):
    """A file for h5py. When its disk is full it goes on in memory, and `check` says so.

    HDF5 (2.0 and before) ends the process with a segmentation fault if it cannot write what it
    still has when it closes a file.

    Args:
        handle: of an empty file, opened for reading and writing; stays open.
    """

    def __init__(self, handle: int) -> None:
        self._file: io.FileIO | io.BytesIO = io.FileIO(handle, "r+", closefd=False)
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the ``OSError`` of the write that failed, if one did."""
        if self._error is not None:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place; see `io.RawIOBase`, as for the others."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        """Read."""
        return self._file.readinto(buffer)

    def write(self, data: Any, /) -> int:
        """Write all of ``data``."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._go_on_in_memory(error)
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Shorten or lengthen the file."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._go_on_in_memory(error)
            return self._file.truncate(size)

    def _go_on_in_memory(self, error: OSError) -> None:
        self._error = error
        place = self._file.tell()
        self._file.seek(0)
        self._file = io.BytesIO(self._file.read())
        self._file.seek(place)
