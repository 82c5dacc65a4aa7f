"""Files on a disk that is full or refuses, and locks where the file system has none."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from kdcli.common.errors import ResourceError
from kdcli.common.files import TEMPORARY, atomic_file, explained, write_atomic
from kdcli.common.lock import Lock


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(b"old")
    (tmp_path / ("scores.json" + TEMPORARY)).symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"scores\.json: the disk is full \(\d+\.\d MiB free\)"):
        write_atomic(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("scores.json", b"old")]


def test_an_error_of_the_block_leaves_no_half_file_and_stays_what_it_is(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_file(tmp_path / "new" / "page.html") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, r"your share of the disk \(quota\) is used up"),
        (errno.EROFS, r"cannot be written \(Read-only file system\)"),
        (errno.EFBIG, r"cannot be written \(File too large\)"),
    ],
)
def test_the_systems_refusal_is_told_with_its_reason(
    number: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=words), explained(tmp_path / "file"):
        raise OSError(number, os.strerror(number))


def test_a_lock_that_fails_otherwise_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(ResourceError, match=r"cannot be locked \(Input/output error\)"):
        Lock(tmp_path / ".lock", "at work")
