"""A run's files on a disk that is full, and its locks where the file system has none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kdcli.common.errors import ResourceError, StudentError
from kdcli.common.files import TEMPORARY, append_text
from kdcli.student.config.schema import RunConfig
from kdcli.student.experiments.runner import Runner, Worker
from kdcli.student.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kdcli.student.runs.directory import TENSORBOARD
from kdcli.student.training.metric_logger import MetricLogger
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]

APPEND = """
import resource, sys
from pathlib import Path
from kdcli.common.errors import ResourceError
from kdcli.common.files import append_text
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
try:
    append_text(Path(sys.argv[1]), "a second line, too long\\n")
except ResourceError as error:
    print(error)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    """PyTorch raises an error of its own there, which does not say why."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, Checkpoint(1, {"w": torch.ones(3)}, {}))
    (tmp_path / ("last.pt" + TEMPORARY)).symlink_to("/dev/full")
    with pytest.raises(ResourceError, match=r"last\.pt: the disk is full"):
        save_checkpoint(path, Checkpoint(2, {"w": torch.ones(100_000)}, {}))
    assert load_checkpoint(path).step == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_text(path, "first line\n")
    done = subprocess.run([sys.executable, "-c", APPEND, path], capture_output=True, text=True)
    assert f"{path}: cannot be written (File too large)" in done.stdout, done.stderr
    assert path.read_text() == "first line\n"


def test_tensorboard_without_room_is_one_message_and_no_threads_traceback(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    run = small_disk.parent / "run"
    run.mkdir()
    (run / TENSORBOARD).symlink_to(small_disk)

    def write_lines() -> None:
        with MetricLogger(run, 0) as logger:
            for step in range(2000):
                logger.add(step, {"loss": 0.5})

    with pytest.raises(ResourceError, match="run/tensorboard: the disk is full"):
        write_lines()
    assert reported == []


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, as a file system that has no locks is not to be had."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "lockf", refuse)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_run_is_trained_with_a_warning(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match=r"has no locks \(Operation not supp"):
        assert train(small(optim__steps=1), devkit, None, tmp_path / "run").finished


@pytest.mark.usefixtures("no_locks")
def test_without_locks_work_is_not_shared(devkit: Devkit, tmp_path: Path) -> None:
    runner = Runner(tmp_path, devkit, None, "Segmentation/val", Worker(0, 2))
    with pytest.raises(ResourceError, match=r"no locks .* keep the processes of one run apart"):
        runner.run([], print)


def test_a_finished_run_is_known_as_such_where_nothing_can_be_written(
    devkit: Devkit, small: Small, tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    run, config = tmp_path / "run", small(optim__steps=1)
    summary = train(config, devkit, None, run)
    read_only(run)
    assert train(config, devkit, None, run) == summary
    with pytest.raises(StudentError, match="holds a run that differs"):
        train(small(optim__steps=2), devkit, None, run)
    with pytest.raises(ResourceError, match=r"run/new/\.lock: cannot be written"):
        train(config, devkit, None, run / "new")
