"""One run of several real processes, started by PyTorch's torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdcli.cache.format.layout import LOCK
from kdcli.cache.format.root import read_root
from kdcli.cache.writing.worker import WorkerWriter
from kdcli.common.errors import BusyError, CacheError
from kdcli.common.lock import Lock
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import GenerationResult, generate
from kdcli.tutor_gen.registry import load_tutors
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

IMAGES = 14
LIST = "Segmentation/trainval"


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    torch.set_num_threads(1)
    return make_sample(tmp_path_factory.mktemp("torchrun") / "voc", images=IMAGES, seed=11)


def run_alone(voc: Devkit, out: Path) -> GenerationResult:
    pair = load_tutors(
        generation_config(
            detection__tutor="sample",
            segmentation__tutor="sample",
            runtime__images_per_shard=1,
        )
    )
    return generate(voc, voc.image_ids(LIST), pair, out)


@pytest.fixture(scope="module")
def whole(voc: Devkit) -> Path:
    """What one process makes."""
    out = voc.root.parent / "whole.zarr"
    assert run_alone(voc, out).images == IMAGES
    return out


@contextlib.contextmanager
def start(voc: Devkit, out: Path, processes: int) -> Iterator[subprocess.Popen[str]]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)),
        *("--standalone", "-m", "kdcli", "generate-tutors", "--voc", str(voc.root)),
        *("--list", LIST, "--detection-tutor", "sample", "--segmentation-tutor", "sample"),
        *("--out", str(out), "--images-per-shard", "1", "--device", "cpu"),
    ]
    root = Path(__file__).resolve().parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun passes it on


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def process_of_rank(launcher: int, rank: int) -> int:
    (children,) = Path(f"/proc/{launcher}/task").glob(f"{launcher}/children")
    for child in map(int, children.read_text().split()):
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return child
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
def test_two_processes_make_what_one_makes(voc: Devkit, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    with start(voc, out, 2) as process:
        printed, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    assert printed.count("is complete") == 1
    assert messages.count(f"tutors: {IMAGES} of {IMAGES}") == 1  # one bar for both
    assert files_of(out) == files_of(whole)


@pytest.mark.slow
def test_the_shards_of_a_killed_process_are_taken_up_by_a_rerun(
    voc: Devkit, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.zarr"
    with start(voc, out, 2) as process:
        while not list(out.glob(".parts/*.part")):
            time.sleep(0.002)
            assert process.poll() is None, process.communicate()
        with pytest.raises(BusyError, match="is generating into this cache"):
            Lock(out / LOCK, "generating into this cache")
        os.kill(process_of_rank(process.pid, 1), signal.SIGKILL)
        _, messages = process.communicate(timeout=300)
    assert process.returncode == 1, messages
    done = {part: part.stat().st_mtime_ns for part in out.glob("label_map/c/*/0")}
    assert 0 < len(done) < IMAGES
    finished = len(list(out.glob(".parts/*.part")))
    result = run_alone(voc, out)
    assert (result.images, result.skipped) == (IMAGES - finished, finished)
    assert sum(part.stat().st_mtime_ns == written for part, written in done.items()) >= finished
    assert files_of(out) == files_of(whole)


def test_a_member_keeps_its_cache_closed_to_others(voc: Devkit, whole: Path) -> None:
    """Even when the process that opened it is dead."""
    root = read_root(whole)
    with pytest.raises(CacheError, match=r"detection_floor: 0\.001 in the cache, now 0\.5"):
        WorkerWriter(whole, root, {**root.settings, "detection_floor": 0.5}, 1)
    with (
        WorkerWriter(whole, root, root.settings, 1),
        pytest.raises(BusyError, match="is generating into this cache"),
    ):
        run_alone(voc, whole)
    assert run_alone(voc, whole).images == 0
