"""A store on a disk that is full or refuses, and where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kdcli.cache.format.layout import LOCK
from kdcli.cache.format.root import read_root
from kdcli.cache.hdf5 import export_cache
from kdcli.cache.writer import CacheWriter
from kdcli.cache.writing.worker import WorkerWriter
from kdcli.common.errors import ResourceError

EXPORT = """
import resource, sys
from kdcli.common.errors import ResourceError
from kdcli.cache.hdf5 import export_cache
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    export_cache(sys.argv[1], sys.argv[2])
except ResourceError as error:
    print(error)
"""


def test_an_export_that_finds_no_room_ends_with_a_message(
    drawn: ModuleType, tmp_path: Path
) -> None:
    """HDF5 crashes over a failed write: at the end of the process, too, so each try has its own."""
    store, out = tmp_path / "cache.zarr", tmp_path / "cache.h5"
    entries = drawn.draw_entries(30)
    drawn.write_cache(store, [drawn.draw_output(e, vectors=50) for e in entries], entries)
    export_cache(store, tmp_path / "whole.h5")
    size = (tmp_path / "whole.h5").stat().st_size
    for limit in (0, 1000, size // 4, size // 2, size - 5000, size - 1):
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, store, out, str(limit)], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), limit
        assert f"{out}: cannot be written (File too large)" in done.stdout
        assert sorted(p.name for p in tmp_path.iterdir()) == ["cache.zarr", "whole.h5"]


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing that is simulated here: a file system that has no locks is not to be had."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_one_process_goes_on_with_a_warning(
    drawn: ModuleType, tmp_path: Path
) -> None:
    entries = drawn.draw_entries(6)
    with pytest.warns(UserWarning, match=r"no locks \(No locks available\): see to it that only "):
        drawn.write_cache(tmp_path, [drawn.draw_output(entry) for entry in entries], entries)
    assert read_root(tmp_path).complete
    assert not (tmp_path / LOCK).exists()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_several_processes_are_refused(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(6)
    with (
        pytest.warns(UserWarning, match="no locks"),
        CacheWriter.open(tmp_path, entries, drawn.SETTINGS, drawn.ENVIRONMENT) as writer,
        pytest.raises(ResourceError, match=r"No locks available\).* use one process, or write"),
    ):
        WorkerWriter(tmp_path, writer.root, drawn.SETTINGS, 1)
