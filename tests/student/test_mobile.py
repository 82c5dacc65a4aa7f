"""A student on MobileNetV2 with a frozen stage: trained, stopped, shared, compiled, exported."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import get_model

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.evaluation.evaluate import evaluate_student
from kdcli.student.evaluation.onnx import export_onnx
from kdcli.student.runs.checkpoint import checkpoint_path, load_checkpoint
from kdcli.student.runs.load import load_run
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

FROZEN = tuple(f"trunk.features.{index}." for index in range(4))
Small = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torchvision's with statistics that frozen batch norms have to keep."""
    torch.manual_seed(7)
    net = get_model("mobilenet_v2", weights=None).train()
    net(torch.randn(16, 3, 64, 64))
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture
def mobile(small: Small, weights: Path) -> Small:
    def build(**changes: object) -> RunConfig:
        return small(**{"model__preset": "mobile", "init__trunk": str(weights), **changes})

    return build


def losses(run: Path) -> list[float]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def assert_frozen(run: Path, weights: Path) -> None:
    """The first stage is the file's to the bit; the rest is not."""
    state, before = load_checkpoint(checkpoint_path(run)).model, torch.load(weights)
    for name, value in state.items():
        if name.startswith("trunk.") and not name.endswith("num_batches_tracked"):
            same = torch.equal(value, before[name.removeprefix("trunk.")])
            assert same == name.startswith(FROZEN), name


def test_a_stopped_run_goes_on_bit_for_bit(
    devkit: Devkit, mobile: Small, weights: Path, tmp_path: Path
) -> None:
    def stopped(batches: Any, total: int, label: str) -> Iterator[Any]:
        for done, batch in enumerate(batches):
            if done == 3:
                raise ZeroDivisionError
            yield batch

    config = mobile(runtime__channels_last=True)
    train(config, devkit, None, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        train(config, devkit, None, tmp_path / "halves", progress=stopped)
    train(config, devkit, None, tmp_path / "halves")
    whole, halves = (
        load_checkpoint(checkpoint_path(tmp_path / name)) for name in ("whole", "halves")
    )
    for name, value in whole.model.items():
        assert torch.equal(value, halves.model[name]), name
    assert_frozen(tmp_path / "whole", weights)
    trained = sum(p.requires_grad for p in load_run(tmp_path / "whole").model.parameters())
    assert len(whole.optimizer["state"]) == trained
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["starts"][0]["trunk"]["convention"] == "rgb-unit"
    assert evaluate_student(tmp_path / "whole", devkit, "Segmentation/val").detection.map >= 0


def test_random_weights_are_not_frozen(devkit: Devkit, mobile: Small, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"frozen_stages=1 would freeze random .* init.trunk"):
        train(mobile(init__trunk=""), devkit, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_train_as_one(
    devkit: Devkit, cache: TutorCache, mobile: Small, weights: Path, tmp_path: Path
) -> None:
    """Batch norms over the whole batch; the frozen ones over nothing."""
    config = mobile(
        targets__detection__source="combination",
        optim={"batch_size": 8, "lr": 1e-5},
        runtime={"log_every": 1},
    )
    train(config, devkit, cache, tmp_path / "one")
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["--voc", devkit.root, "--cache", cache.path, "--config", file,
                 "--out", tmp_path / "two"]  # fmt: skip
    subprocess.run(
        [*torchrun, "-m", "kdcli", "train-student", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for name in ("one", "two"):
        assert_frozen(tmp_path / name, weights)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)
def test_the_export_prepares_images_as_training_did(
    devkit: Devkit, mobile: Small, tmp_path: Path
) -> None:
    """It takes bytes, as every export does: what they become lies in the file."""
    train(mobile(optim__steps=2), devkit, None, tmp_path / "run")
    written = export_onnx(tmp_path / "run", tmp_path / "student.onnx")
    assert written.difference is not None
    assert written.difference < 1e-4


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.skipif(
    not os.environ.get("KDCLI_TEST_COMPILE"),
    reason="compiling takes more than a minute: set KDCLI_TEST_COMPILE=1",
)
def test_a_compiled_network_learns_the_same(
    devkit: Devkit, mobile: Small, weights: Path, tmp_path: Path
) -> None:
    for compiled in (False, True):
        changes = {"compile": compiled, "log_every": 1}
        config = mobile(optim={"steps": 3, "lr": 1e-5}, runtime=changes)
        train(config, devkit, None, tmp_path / str(compiled))
        assert_frozen(tmp_path / str(compiled), weights)
    found, plain = losses(tmp_path / "True"), losses(tmp_path / "False")
    assert found[0] == pytest.approx(plain[0], rel=1e-4)
    # Batch norms over four values and Adam's first steps amplify how sums are rounded.
    assert found == pytest.approx(plain, rel=5e-3)
