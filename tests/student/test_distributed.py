"""Two real processes below torchrun train what one process trains with the same batches."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.common.errors import ConfigError
from kdcli.student.config.schema import RunConfig
from kdcli.student.runs.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

STEPS = 14
CLOCKS = ("images_per_second", "wait_ms")
TRACED = """
import sys
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from kdcli.cli import main

graphs = CompileCounterWithBackend("aot_eager")
torch.compiler.set_stance("default", force_backend=graphs)
code = main(sys.argv[1:], prog_name="kdcli", standalone_mode=False)
print("programs:", graphs.frame_count)
sys.exit(code)
"""
"""The program, compiling without the code generator, which takes minutes."""
Small = Callable[..., RunConfig]


@pytest.fixture
def config(small: Small) -> RunConfig:
    """Every kind of target, micro-batches in which nobody learns some of them, evaluations.

    The learning rate is low: one sum is rounded otherwise than two, and Adam amplifies that.
    """
    return small(
        targets__detection__source="combination",
        targets__segmentation__source="fill-in",
        targets__gt_share=0.4,
        targets__segmentation__gt_share=0.5,
        targets__segmentation__ignore_largest=0.1,
        optim={"steps": STEPS, "batch_size": 8, "accumulate": 2, "lr": 1e-5, "milestones": [9]},
        runtime__log_every=1,
        evaluation={"every": 4, "list": "Segmentation/val"},
    )


def start(
    config: RunConfig, devkit: Devkit, cache: TutorCache, out: Path, program: str | None = None
) -> subprocess.Popen[str]:
    file = out.with_suffix(".toml")
    file.write_text(to_toml(config), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    what = ["-m", "kdcli"]
    if program is not None:
        script = out.with_suffix(".py")
        script.write_text(program, encoding="utf-8")
        what = [str(script)]
    arguments = ["--voc", devkit.root, "--cache", cache.path, "--config", file, "--out", out]
    return subprocess.Popen(
        [*torchrun, *what, "train-student", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal reaches it as Ctrl-C would: all of it at once
    )


def lines(run: Path) -> list[dict[str, float]]:
    found = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [
        {k: line[k] for k in line if k not in ("images_per_second", "wait_ms")} for line in found
    ]


def assert_same_training(one: Path, other: Path) -> None:
    for here, there in zip(lines(one), lines(other), strict=True):
        # A pixel or two may fall to another class.
        assert there == pytest.approx(here, rel=2e-3 if "evaluation/miou" in here else 1e-4)
    first, second = (load_checkpoint(checkpoint_path(run)) for run in (one, other))
    assert first.step == second.step
    for name, value in first.model.items():
        assert torch.allclose(value.float(), second.model[name].float(), rtol=1e-3, atol=2e-4), name
    assert_same_gradients(first, second)


def assert_same_gradients(first: Checkpoint, second: Checkpoint) -> None:
    """Their averages, that is; unlike the weights they show a wrong factor."""
    for index, state in first.optimizer["state"].items():
        here, there = state["exp_avg"], second.optimizer["state"][index]["exp_avg"]
        assert (here - there).norm() <= 1e-2 * here.norm(), index


def test_two_processes_train_as_one(
    devkit: Devkit, cache: TutorCache, config: RunConfig, tmp_path: Path
) -> None:
    """Begun by one process, gone on with by two, interrupted by Ctrl-C, ended by one.

    Batch norms, normalisers, mining, evaluation: as if one process had done it all.
    """

    def killed(batches: Any, total: int, label: str) -> Iterator[Any]:
        for done, batch in enumerate(batches):
            if done == 3:
                raise ZeroDivisionError
            yield batch

    train(config, devkit, cache, tmp_path / "one")
    shared = tmp_path / "shared"
    with pytest.raises(ZeroDivisionError):
        train(config, devkit, cache, shared, progress=killed)
    process = start(config, devkit, cache, shared)
    deadline = time.monotonic() + 100
    curve = shared / "metrics.jsonl"
    while "evaluation/map" not in curve.read_text() and process.poll() is None:
        assert time.monotonic() < deadline, "no evaluation appeared"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=100)
    stopped_at = load_checkpoint(checkpoint_path(shared)).step
    assert 4 <= stopped_at < STEPS, errors
    assert errors.count(f"Stopped after step {stopped_at} of {STEPS}") == 1
    assert "Evaluate it" not in printed
    train(config, devkit, cache, shared)
    starts = json.loads((shared / "run.json").read_text())["starts"]
    assert [(start["step"], start["processes"]) for start in starts] == [
        (0, 1), (2, 2), (stopped_at, 1),
    ]  # fmt: skip
    assert_same_training(tmp_path / "one", shared)


def test_two_processes_wait_for_the_same_images(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    """Asynchronous updates, of images whose ground truth lies on either process, or on none."""
    config = small(
        targets__detection__gt_share=0.7,
        targets__segmentation__gt_share=0.4,
        optim={"steps": STEPS, "batch_size": 4, "accumulate": 2, "lr": 1e-5, "milestones": [9]},
        optim__asynchronous={"enabled": True, "shared": 12, "segmentation": 5},
        runtime__log_every=1,
    )
    train(config, devkit, None, tmp_path / "one")
    process = start(config, devkit, cache, tmp_path / "two")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert_same_training(tmp_path / "one", tmp_path / "two")
    one, two = (load_checkpoint(checkpoint_path(tmp_path / name)) for name in ("one", "two"))
    waits, others = one.asynchronous, two.asynchronous
    assert (waits["samples"], waits["updates"]) == (others["samples"], others["updates"])
    assert (waits["updates"]["shared"], waits["samples"]["shared"]) == (4, 2 * 4)
    assert 0 < waits["updates"]["segmentation"] < STEPS
    assert waits["sums"].keys() == others["sums"].keys()
    assert any(name.startswith("trunk.") for name in waits["sums"])
    for name, total in waits["sums"].items():
        assert (total - others["sums"][name]).norm() <= 1e-2 * total.norm(), name


def test_two_processes_compile_the_network(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    """And train as one that does not; in steps where nobody learns a task its parameters rest."""
    config = small(
        targets__segmentation__gt_share=0.2,
        optim={"steps": 8, "batch_size": 4, "lr": 1e-5},
        runtime__log_every=1,
    )
    train(config, devkit, None, tmp_path / "one")
    asked = replace(config, runtime=replace(config.runtime, compile=True))
    process = start(asked, devkit, cache, tmp_path / "two", TRACED)
    printed, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert printed.count("runtime.compile is for the network") == 1
    assert [int(count) > 0 for count in re.findall(r"programs: (\d+)", printed)] == [True] * 2
    assert_same_training(tmp_path / "one", tmp_path / "two")
    one, two = (
        [int(own["step"]) for own in checkpoint.optimizer["state"].values()]
        for checkpoint in (
            load_checkpoint(checkpoint_path(tmp_path / name)) for name in ("one", "two")
        )
    )
    assert 0 < min(one) < max(one) == 8
    assert two == one


def test_parts_of_a_step_average_their_gradients(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    """A step over two images twice, in two parts, is the step over them once."""
    (devkit.root / "ImageSets" / "Main" / "two.txt").write_text(
        "\n".join(devkit.image_ids("Segmentation/val")[:2]) + "\n", encoding="utf-8"
    )
    augmentation = {
        "zoom_out_probability": 0.0, "crop_area": [1.0, 1.0], "crop_tries": 0,
        "flip_probability": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
    }  # fmt: skip
    for name, batch_size, accumulate in (("once", 2, 1), ("twice", 4, 2)):
        config = small(
            data__list="Main/two",
            augmentation=augmentation,
            optim={"batch_size": batch_size, "accumulate": accumulate, "steps": 1},
        )
        train(config, devkit, None, tmp_path / name)
    once, twice = (load_checkpoint(checkpoint_path(tmp_path / n)) for n in ("once", "twice"))
    assert_same_gradients(once, twice)
    first, second = (lines(tmp_path / name) for name in ("once", "twice"))
    assert first == [pytest.approx(line, rel=1e-4) for line in second]


def test_a_batch_that_cannot_be_divided_is_refused(small: Small) -> None:
    with pytest.raises(ConfigError, match=r"optim.accumulate to be a divisor of optim.batch_size"):
        small(optim__batch_size=8, optim__accumulate=3)
