"""Settings of all tests, and what several of them need of the system."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# As in cli.py: before PyTorch is loaded, by us or by a process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell starts background jobs with SIGINT ignored, and the processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Returns a function that lets a folder only be read, until the test ends."""
    closed = []

    def close(folder: Path) -> None:
        if os.geteuid():
            folder.chmod(0o555)
        else:  # to whom permissions are nothing
            mount = ["mount", "--bind", folder, folder]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                pytest.skip("may not mount")
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        closed.append(folder)

    yield close
    for folder in closed:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["umount", "--lazy", folder], check=True)
