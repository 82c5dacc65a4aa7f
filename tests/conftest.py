"""Settings of all tests, and what several of them need of the system."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kdcli.voc.classes import VOC
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_mask, write_mask
from kdcli.voc.labels import LabelSet
from kdcli.voc.labels_file import LABELS_FILE, write_labels
from kdcli.voc.scenes.dataset import make_sample

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


THREE = LabelSet(
    ("vehicle", "living thing", "thing"),
    {"vehicle": (200, 30, 30)},
    {
        "vehicle": ("airplane", "boat", "BUS"),
        "living thing": ("cat", "Person", "potted_plant"),
        "thing": ("bottle", "tv"),
    },
)
"""Labels of drawn scenes, by the words of the sample tutors."""
_MEANT = {"aeroplane": 1, "boat": 1, "bus": 1, "cat": 2, "person": 2, "pottedplant": 2} | {
    "bottle": 3, "tvmonitor": 3,
}  # fmt: skip


@pytest.fixture(scope="session")
def three_labels() -> Callable[[Path, int], Devkit]:
    """Returns a function that draws so many scenes into a folder, of three labels."""

    def draw(folder: Path, images: int) -> Devkit:
        make_sample(folder, images, seed=5)
        names = np.zeros(256, np.uint8)
        names[255] = 255
        for name, label in _MEANT.items():
            names[VOC.id_of(name)] = label
        for file in (folder / "Annotations").iterdir():
            text = file.read_text()
            for name, label in _MEANT.items():
                text = text.replace(f"<name>{name}<", f"<name>{THREE.all_names[label]}<")
            file.write_text(text)
        for file in (folder / "SegmentationClass").iterdir():
            write_mask(file, names[read_mask(file)], THREE.palette)
        write_labels(folder / LABELS_FILE, THREE)
        return Devkit.open(folder)

    return draw
