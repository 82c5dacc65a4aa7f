"""Training: it learns, it resumes bit for bit, it refuses what it should, and says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.common.errors import BusyError, StudentError
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.runs.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from kdcli.student.runs.directory import locked, recorded_config
from kdcli.student.runs.load import load_run
from kdcli.student.training.interrupts import TrainingInterrupted
from kdcli.student.training.train import train
from kdcli.student.training.trainer import learning_rate
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]
CLOCKS = ("images_per_second", "wait_ms")

RUN_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
import torch
from kdcli.cache.reader import TutorCache
from kdcli.student.config.toml import run_config
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

torch.set_num_threads(1)
config, voc, cache, out = sys.argv[1:]
train(run_config(config), Devkit.open(voc), TutorCache.open(cache), Path(out))
"""

HOLD_THE_RUN = """
import os, sys, time
from pathlib import Path
from kdcli.student.runs.directory import locked

with locked(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def mixed(small: Small) -> Callable[..., RunConfig]:
    """A small run in which every kind of target occurs."""

    def build(**changes: object) -> RunConfig:
        return small(
            targets__detection__source="combination",
            targets__segmentation__source="fill-in",
            targets__gt_share=0.5,
            **changes,
        )

    return build


def curve(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in CLOCKS} for line in lines]


def assert_same_state(one: Path, other: Path) -> None:
    first, second = (load_checkpoint(checkpoint_path(run)) for run in (one, other))
    assert first.step == second.step
    for name, value in first.model.items():
        assert torch.equal(value, second.model[name]), name
    for index, state in first.optimizer["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second.optimizer["state"][index][name]), (index, name)
    assert curve(one) == curve(other)


def test_a_killed_run_goes_on_bit_for_bit(
    devkit: Devkit, cache: TutorCache, mixed: Small, tmp_path: Path
) -> None:
    """Killed with SIGKILL after some checkpoint, in another process; resumed by the same call."""
    config = mixed(optim__steps=12)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(config, devkit, cache, straight)
    file = tmp_path / "run.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    arguments = [file, devkit.root, cache.path, killed]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_IN_ANOTHER_PROCESS, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 100
    while not checkpoint_path(killed).is_file() and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.002)
    process.kill()
    process.wait()
    stopped_at = load_checkpoint(checkpoint_path(killed)).step
    assert stopped_at >= 2
    train(run_config(file), devkit, cache, killed)
    assert_same_state(straight, killed)
    if stopped_at < 12:  # else the process was through before the signal came
        starts = json.loads((killed / "run.json").read_text())["starts"]
        assert [start["step"] for start in starts] == [0, stopped_at]


def test_resuming_at_every_checkpoint_gives_the_same_curve(
    devkit: Devkit, cache: TutorCache, mixed: Small, tmp_path: Path
) -> None:
    config = mixed()
    straight, pieces = tmp_path / "straight", tmp_path / "pieces"
    train(config, devkit, cache, straight)
    for _ in range(3):
        with pytest.raises(KilledError):
            train(config, devkit, cache, pieces, progress=killed_after(3))
    # Every start did three steps, of which the checkpoint after two remained.
    assert load_checkpoint(checkpoint_path(pieces)).step == 6
    train(config, devkit, cache, pieces)
    assert_same_state(straight, pieces)


class KilledError(Exception):
    """Stands for a sudden end that leaves no time to save anything."""


def killed_after(steps: int) -> Callable[..., Any]:
    def progress(batches: Any, total: int, label: str) -> Any:
        for done, batch in enumerate(batches):
            if done == steps:
                raise KilledError
            yield batch
        raise KilledError

    return progress


def test_the_loss_on_four_scenes_falls(devkit: Devkit, small: Small, tmp_path: Path) -> None:
    """Overfitting: without augmentation a tiny network learns four scenes by heart."""
    (devkit.root / "ImageSets" / "Main" / "four.txt").write_text(
        "\n".join(devkit.image_ids("Segmentation/trainval")[:4]) + "\n", encoding="utf-8"
    )
    config = small(
        data__list="Main/four",
        optim__steps=60,
        optim__lr=4e-3,
        optim__milestones=[],
        runtime__log_every=5,
        runtime__checkpoint_every=60,
        augmentation__zoom_out_probability=0.0,
        augmentation__crop_area=[1.0, 1.0],
        augmentation__crop_tries=0,
        augmentation__flip_probability=0.0,
    )
    summary = train(config, devkit, None, tmp_path / "run")
    lines = curve(tmp_path / "run")
    assert summary.finished
    assert lines[-1]["loss"] < 0.4 * lines[0]["loss"]
    assert lines[-1]["loss/segmentation_gt"] < 0.5 * lines[0]["loss/segmentation_gt"]


def test_a_run_explains_itself(
    devkit: Devkit, cache: TutorCache, mixed: Small, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = mixed(evaluation__every=3, evaluation__list="Segmentation/val")
    summary = train(config, devkit, cache, run)
    assert run_config(run / "config.toml") == config
    record = json.loads((run / "run.json").read_text())
    assert record["cache"] == cache.fingerprint
    assert record["images"] == 12
    assert record["counts"]["segmentation_gt"] == record["counts"]["segmentation_tutor"] == 6
    assert record["starts"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len((run / "targets.csv").read_text().splitlines()) == 13
    written = json.loads((run / "summary.json").read_text())
    assert written["finished"]
    assert written["step"] == summary.step == 6
    assert written["evaluation"]["step"] == 6
    lines = curve(run)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [2, 3, 4, 6]
    assert losses[0]["lr"] == pytest.approx(1e-3)
    assert losses[-1]["lr"] == pytest.approx(1e-4)
    assert {
        "loss/detection_gt/class",
        "loss/detection_tutor/box",
        "loss/segmentation_tutor",
    } <= set(losses[-1])
    evaluations = [line for line in lines if "evaluation/map" in line]
    assert [line["step"] for line in evaluations] == [3, 6]
    best = load_checkpoint(checkpoint_path(run, "best"))
    assert best.best_score == summary.best_score
    assert list((run / "tensorboard").iterdir())


def test_a_finished_run_is_left_alone(devkit: Devkit, small: Small, tmp_path: Path) -> None:
    first = train(small(), devkit, None, tmp_path / "run")
    before = checkpoint_path(tmp_path / "run").stat().st_mtime_ns
    assert train(small(), devkit, None, tmp_path / "run") == first
    assert checkpoint_path(tmp_path / "run").stat().st_mtime_ns == before


def test_another_configuration_is_refused_with_the_differences(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(small(), devkit, None, run)
    with pytest.raises(StudentError) as info:
        train(small(optim__lr=0.5, seed=2), devkit, None, run)
    assert "  optim.lr: 0.001 in the run, 0.5 asked for" in str(info.value)
    assert "  seed: 1 in the run, 2 asked for" in str(info.value)
    # How the run is carried out may change.
    train(small(runtime__log_every=1), devkit, None, run)


def test_another_cache_is_refused(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path, make_cache: Any
) -> None:
    config = small(targets__detection__source="tutor")
    train(config, devkit, cache, tmp_path / "run")
    other = make_cache(tmp_path / "other.zarr", roles=("detection",))
    with pytest.raises(StudentError, match=f"cache: '{cache.fingerprint}' in the run"):
        train(config, devkit, other, tmp_path / "run")


def test_a_run_that_read_label_vectors_otherwise_is_refused(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    """Earlier versions took a vector without entries for a uniform one, and recorded nothing."""
    config, run = small(targets__segmentation__source="tutor"), tmp_path / "run"
    train(config, devkit, cache, run)
    record = json.loads((run / "run.json").read_text())
    del record["label_vectors"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(StudentError, match="label_vectors: None in the run, 'a vector without"):
        train(config, devkit, cache, run)
    # Without a tutor's label vectors there is nothing to read otherwise.
    train(small(), devkit, None, tmp_path / "plain")
    assert "label_vectors" not in json.loads((tmp_path / "plain" / "run.json").read_text())


def test_a_folder_of_something_else_is_refused(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    (tmp_path / "thesis.pdf").touch()
    with pytest.raises(StudentError, match=r"no run and not empty \(thesis.pdf lies there\)"):
        train(small(), devkit, None, tmp_path)


def test_two_processes_never_train_into_one_run(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_RUN, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(BusyError, match="is training there"):
            train(small(), devkit, None, tmp_path)
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # its worker lives on for a while, and holds nothing
        with locked(tmp_path):
            pass
    finally:
        holder.kill()
        os.kill(worker, signal.SIGKILL)
        holder.stdout.close()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    """One weight of the step-2 checkpoint is made NaN; the next line must notice."""
    run, config = tmp_path / "run", small(runtime__log_every=1)
    with pytest.raises(KilledError):
        train(config, devkit, None, run, progress=killed_after(2))
    checkpoint = load_checkpoint(checkpoint_path(run))
    next(value for name, value in checkpoint.model.items() if "conv" in name).fill_(float("nan"))
    save_checkpoint(checkpoint_path(run), checkpoint)
    with pytest.raises(StudentError, match=r"The loss of step 3 is nan: .*bad-batch\.json"):
        train(config, devkit, None, run)
    bad = json.loads((run / "bad-batch.json").read_text())
    assert bad["step"] == 3
    assert len(bad["image_ids"]) == 4
    assert set(bad["image_ids"]) <= set(devkit.image_ids("Segmentation/trainval"))
    assert load_checkpoint(checkpoint_path(run)).step == 2  # nothing was saved after it


def test_ctrl_c_saves_and_says_how_to_go_on(devkit: Devkit, small: Small, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    run = tmp_path / "run"

    def interrupt_in_step_three(batches: Any, total: int, label: str) -> Any:
        for done, batch in enumerate(batches, start=1):
            if done == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    with pytest.raises(TrainingInterrupted, match="after step 3 of 6; the same command goes on"):
        train(small(), devkit, None, run, progress=interrupt_in_step_three)
    assert load_checkpoint(checkpoint_path(run)).step == 3
    assert not json.loads((run / "summary.json").read_text())["finished"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    straight = tmp_path / "straight"
    train(small(), devkit, None, straight)
    train(small(), devkit, None, run)
    first, second = (load_checkpoint(checkpoint_path(path)) for path in (straight, run))
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())


def test_a_mistake_in_the_data_is_one_clear_message_even_from_a_worker(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    import shutil

    from kdcli.common.errors import DevkitError

    damaged = Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))
    for photograph in (damaged.root / "JPEGImages").iterdir():
        photograph.write_bytes(photograph.read_bytes()[:1500])
    config = small()
    config = replace(config, runtime=replace(config.runtime, workers=1))
    with pytest.raises(DevkitError) as info:
        train(config, damaged, None, tmp_path / "run")
    assert "Traceback" not in str(info.value)
    assert "JPEGImages" in str(info.value)


def test_the_learning_rate_falls_after_the_milestones() -> None:
    optim = replace(RunConfig().optim, lr=1.0, milestones=(3, 5), decay=0.1)
    rates = [learning_rate(optim, step) for step in range(7)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_checkpoint_holds_tensors_and_numbers_alone(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    train(small(), devkit, None, tmp_path / "run")
    path = checkpoint_path(tmp_path / "run")
    state = torch.load(path, weights_only=True)
    assert state["step"] == 6
    config, model, step = load_run(tmp_path / "run")
    assert (config, step) == (fitted(small(), torch.device("cpu")), 6)
    assert recorded_config(tmp_path / "run") == small()
    assert not model.training
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StudentError, match=r"Cannot read the checkpoint .*last\.pt"):
        load_run(tmp_path / "run")
    with pytest.raises(StudentError, match=r"Found no checkpoint .*best\.pt"):
        load_run(tmp_path / "run", checkpoint="best")
    with pytest.raises(StudentError, match="is no run of this program"):
        load_run(tmp_path)
