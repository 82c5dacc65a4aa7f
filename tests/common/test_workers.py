"""Worker processes of PyTorch's loader, where the system refuses what they need, and at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from kdcli.common.errors import DevkitError, ResourceError
from kdcli.common.workers import read_batches, worker_options

LEFT_ALIVE = """
import sys, time, torch
from torch.utils.data import DataLoader, Dataset
from kdcli.common.workers import read_batches, worker_options

class Slow(Dataset):
    def __len__(self):
        return 9
    def __getitem__(self, i):
        time.sleep(1000 * (i > 1))
        return torch.zeros(4)

kept = read_batches(DataLoader(Slow(), **worker_options(2)), "workers")
print(len(next(kept)), flush=True)
kept = [kept]
kept.append(kept)  # no collector comes before the end
"""


class Items(Dataset[object]):
    """What a worker is to send; a function is called there."""

    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        item = self.items[index]
        return item() if callable(item) else item


def read(*items: object, workers: int = 1) -> list[object]:
    loader = DataLoader(Items(*items), collate_fn=lambda batch: batch[0], **worker_options(workers))
    return list(read_batches(loader, "--workers"))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_their_order(workers: int) -> None:
    found = read(torch.ones(2), torch.zeros(3), "text", workers=workers)
    assert [len(item) for item in found] == [2, 3, 4]  # type: ignore[arg-type]


def test_a_batch_that_cannot_be_sent_is_an_error_and_no_waiting_for_ever() -> None:
    with pytest.raises(ResourceError, match=r"cannot hand over .*lambda.*\(--workers=0\)"):
        read(1, lambda: lambda: 1, 2)


def test_a_worker_that_the_system_ends_is_told() -> None:
    with pytest.raises(ResourceError, match=r"The system ended a worker process.*\(--workers\)"):
        read(lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_is_the_message_it_was_and_an_accident_stays_one(workers: int) -> None:
    def mistake() -> None:
        raise DevkitError("no such picture")

    def accident() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(DevkitError, match="no such picture"):
        read(mistake, workers=workers)
    with pytest.raises(RuntimeError, match="a bug"):
        read(accident, workers=workers)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("RLIMIT_FSIZE, (4096, 4096)", "The shared memory (/dev/shm, "),
        ("RLIMIT_NOFILE, (16, 16)", "Worker processes need more open files"),
    ],
)
def test_what_the_system_refuses_is_named_with_the_remedy(limit: str, words: str) -> None:
    script = f"""
import resource, torch
from torch.utils.data import DataLoader
from kdcli.common.errors import ResourceError
from kdcli.common.workers import read_batches, worker_options
torch.manual_seed(0)
loader = DataLoader([torch.ones(9000)] * 20, **worker_options(2))
resource.setrlimit(resource.{limit})
try:
    for batch in read_batches(loader, "--workers"):
        pass
except ResourceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(words), done.stderr
    assert "do without worker processes (--workers=0)" in done.stdout
    assert done.stderr == ""


def test_workers_that_are_left_end_with_their_process() -> None:
    """Python asks them to end by a signal that they leave to the main process, and waits."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_ALIVE], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_workers_notice_that_their_process_was_killed(tmp_path: Path) -> None:
    script = LEFT_ALIVE.replace("1000 * (i > 1)", "0").replace("kept = [kept]", "time.sleep(1000)")
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)  # until the last of them has closed it


def test_workers_notice_that_their_process_was_killed_before_they_began() -> None:
    late = "import os, time; os.register_at_fork(after_in_child=lambda: time.sleep(2))"
    script = late + LEFT_ALIVE.replace("1000 * (i > 1)", "0").replace("len(next(kept))", "0")
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("kept = [kept]", "time.sleep(1000)")],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=30)  # until the last of them has closed it


@pytest.mark.parametrize(("failure", "told"), [("EOFError()", False), ("ValueError('why')", True)])
def test_a_reader_that_went_is_no_news(failure: str, told: bool) -> None:
    """Sharing a batch's memory ends so where the main process is stopped while it fetches one."""
    program = f"import kdcli.common.workers as w; w._start(0); raise {failure}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert ("ValueError: why" in done.stderr) == told
    assert told or not done.stderr
