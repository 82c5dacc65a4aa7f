"""Signals to a whole process group, as SLURM, Kubernetes and ``timeout`` send them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kdcli.student.runs.checkpoint import checkpoint_path, load_checkpoint
from kdcli.voc.scenes.dataset import make_sample

GO_ON = "Interrupted. Run the same command again to go on."


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("signals") / "voc", images=30, seed=3).root


def send(command: list[str | Path], ready: Callable[[], bool], number: int) -> tuple[int, str]:
    """Signal the command's process group when it is ready, twice; its exit code and messages.

    It returns only when the last process of the group has closed its output.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "kdcli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    while not ready():
        time.sleep(0.005)
        assert process.poll() is None, process.communicate()
    for _ in range(2):
        os.killpg(process.pid, number)
    _, messages = process.communicate(timeout=60)
    assert "Traceback" not in messages
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return process.returncode, messages.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_training_saves_its_last_step(voc: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    settings = (
        "optim.steps=9999",
        "optim.batch_size=2",
        "runtime.workers=1",
        "runtime.log_every=1",
    )
    command = ["train-student", "--voc", voc, "--list", "Main/train", "--config", "tiny"]
    command += [part for setting in settings for part in ("--set", setting)]

    def two_steps_done() -> bool:
        lines = run / "metrics.jsonl"
        return lines.exists() and lines.read_text().count("\n") >= 2

    code, message = send([*command, "--out", run], two_steps_done, number)
    assert code == 128 + number
    step = load_checkpoint(checkpoint_path(run)).step
    assert step == json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert message.startswith(f"Stopped after step {step} of 9999; the same command goes on from ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_generation_keeps_its_finished_shards(voc: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "c.zarr"
    command = ["generate-tutors", "--voc", voc, "--list", "Main/train", "--images-per-shard", "1"]
    command += ["--detection-tutor", "sample", "--segmentation-tutor", "sample"]
    command += ["--device", "cpu", "--workers", "1", "--out", out]
    code, message = send(command, lambda: any(out.glob(".parts/*.part")), number)
    assert (code, message) == (128 + number, GO_ON)
    assert not (out / ".lock").exists()


def test_other_commands_stop_in_good_order(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    command = ["make-sample", out, "--images", "9999"]
    code, message = send(command, lambda: any(out.glob("JPEGImages/*")), signal.SIGTERM)
    assert (code, message) == (143, GO_ON)
    assert not out.exists()


def test_prediction_leaves_whole_files(voc: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    settings = ("optim.steps=1", "optim.batch_size=2", "runtime.workers=0", "runtime.device=cpu")
    command = ["train-student", "--voc", str(voc), "--list", "Main/train", "--config", "tiny"]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run([sys.executable, "-m", "kdcli", *command, "--out", run], check=True)
    copies = tmp_path / "photographs"
    copies.mkdir()
    for i in range(2000):
        (copies / f"{i}.jpg").symlink_to(next((voc / "JPEGImages").iterdir()))
    command = ["predict", str(run), str(copies), "--out", str(out), "--workers", "2"]
    code, message = send(command, lambda: len(list(out.glob("*.json"))) > 2, signal.SIGTERM)
    assert (code, message) == (143, GO_ON)
    assert not list(out.glob("*.tmp"))
    for file in out.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()
    assert len(list(out.glob("*.json"))) < 2000
