"""The real command, killed and interrupted: the same command goes on, and the store is the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError
from kdcli.voc.scenes.dataset import make_sample

IMAGES, IMAGES_PER_SHARD = 48, 3  # seconds of work: not over before a signal comes


def start(voc: Path, out: Path) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "kdcli", "generate-tutors", "--voc", voc, "--out", out),
        *("--detection-tutor", "sample", "--segmentation-tutor", "sample", "--device", "cpu"),
        *("--images-per-shard", str(IMAGES_PER_SHARD)),
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def labelled(messages: str) -> int:
    """How many images a run that ended labelled, by its last line of progress."""
    (count,) = re.findall(r"tutors: (\d+) of \1,", messages)
    return int(count)


def run(voc: Path, out: Path) -> int:
    """Run the command to its end; how many images it labelled."""
    process = start(voc, out)
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    return labelled(messages)


def shards_done(out: Path) -> int:
    return len(list(out.glob(".parts/*.part")))


def wait_for(process: subprocess.Popen[str], out: Path, shards: int) -> None:
    """Wait until so many shards are done, or the store is begun."""
    while not (out / "zarr.json").exists() or shards_done(out) < shards:
        time.sleep(0.002)
        assert process.poll() is None, process.communicate()


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_killed_and_interrupted_the_same_command_goes_on(tmp_path: Path) -> None:
    voc = make_sample(tmp_path / "voc", images=IMAGES, seed=3).root
    whole, out = tmp_path / "whole.zarr", tmp_path / "c.zarr"
    assert run(voc, whole) == IMAGES
    rng = random.Random(5)
    for shards in (0, 1):
        process = start(voc, out)
        wait_for(process, out, shards)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        _, messages = process.communicate()
        assert process.returncode == -signal.SIGKILL, messages
        with pytest.raises(CacheError, match="Run the same generate-tutors command again"):
            TutorCache.open(out)
    killed_at = shards_done(out)
    process = start(voc, out)
    wait_for(process, out, killed_at + 1)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert messages.splitlines()[-1] == "Interrupted. Run the same command again to go on."
    assert not (out / ".lock").exists()
    finished = shards_done(out)
    assert killed_at < finished < IMAGES / IMAGES_PER_SHARD
    assert run(voc, out) == IMAGES - finished * IMAGES_PER_SHARD  # no finished shard is repeated
    assert verify(out) == []
    assert files_of(out) == files_of(whole)
