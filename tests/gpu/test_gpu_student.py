"""A student on a GPU learns and says what it does on the CPU."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.dataset import StudentDataset, make_loader
from kdcli.student.data.plan import make_plan
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.evaluate import evaluate_student
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

Config = Callable[..., RunConfig]
STEPS = 6


def curve(run: Path) -> list[float]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Loss curves by name, so that the CPU's is computed once."""
    return {}


@pytest.fixture
def of_the_cpu(
    learned: dict[str, list[float]],
    devkit: Devkit,
    cpu_cache: TutorCache,
    config: Config,
    tmp_path: Path,
) -> list[float]:
    if "cpu" not in learned:
        train(config("cpu", steps=STEPS), devkit, cpu_cache, tmp_path / "cpu")
        learned["cpu"] = curve(tmp_path / "cpu")
    return learned["cpu"]


@pytest.mark.usefixtures("full_float32")
def test_the_curve_is_the_cpus(
    devkit: Devkit, cpu_cache: TutorCache, config: Config, tmp_path: Path, of_the_cpu: list[float]
) -> None:
    train(config(steps=STEPS), devkit, cpu_cache, tmp_path / "gpu")
    assert curve(tmp_path / "gpu") == pytest.approx(of_the_cpu, rel=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_fast_forms_learn_the_same(
    devkit: Devkit,
    cpu_cache: TutorCache,
    config: Config,
    tmp_path: Path,
    of_the_cpu: list[float],
    compiled: bool,
) -> None:
    """bfloat16, channels last, translated: within bfloat16's rounding of the same curve."""
    fast = config(steps=STEPS, bf16=True, channels_last=True, compile=compiled)
    train(fast, devkit, cpu_cache, tmp_path / "run")
    assert curve(tmp_path / "run") == pytest.approx(of_the_cpu, rel=0.03)


@pytest.mark.usefixtures("full_float32")
def test_a_stopped_run_goes_on_where_it_stood(
    devkit: Devkit, cpu_cache: TutorCache, config: Config, tmp_path: Path, of_the_cpu: list[float]
) -> None:
    run = tmp_path / "run"
    train(config(steps=STEPS, checkpoint_every=2), devkit, cpu_cache, run)
    whole = curve(run)
    again = tmp_path / "again"
    half = config(steps=STEPS, checkpoint_every=2)

    def stop_early(items, total, label):  # type: ignore[no-untyped-def]
        for done, item in enumerate(items):
            if done == 4:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        train(half, devkit, cpu_cache, again, progress=stop_early)
    train(half, devkit, cpu_cache, again)
    assert curve(again) == pytest.approx(whole, rel=1e-4)
    starts = json.loads((again / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 4]
    assert torch.cuda.get_device_name(0) in starts[0]["device"]


def test_samples_wait_in_pinned_memory(
    devkit: Devkit, cpu_cache: TutorCache, config: Config
) -> None:
    settings = config(steps=1)
    plan = make_plan(settings, devkit, cpu_cache)
    data = StudentDataset(devkit, cpu_cache, plan.learning, settings, plan.mask_folder)
    (batch,) = make_loader(data, 0, torch.device("cuda:0"))
    assert batch.images.is_pinned()
    assert batch.parts["detection"].tutor.boxes.is_pinned()
    moved = batch.to(torch.device("cuda:0"))
    assert moved.images.is_cuda
    assert torch.equal(
        moved.parts["segmentation"].index_maps.cpu(), batch.parts["segmentation"].index_maps
    )


@pytest.mark.usefixtures("full_float32")
def test_an_evaluation_is_the_cpus(
    devkit: Devkit, cpu_cache: TutorCache, config: Config, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(config(steps=60, lr=1e-3, log_every=20), devkit, cpu_cache, run)
    here, there = (
        evaluate_student(run, devkit, "Segmentation/val", device=device)
        for device in ("cuda", "cpu")
    )
    assert there.detection.map > 0.01
    assert here.detection.map == pytest.approx(there.detection.map, abs=2e-3)
    assert here.segmentation is not None
    assert there.segmentation is not None
    assert here.segmentation.miou == pytest.approx(there.segmentation.miou, abs=2e-3)
    half = evaluate_student(run, devkit, "Segmentation/val", device="cuda", bf16=True)
    assert half.detection.map == pytest.approx(there.detection.map, abs=0.05)


@pytest.mark.usefixtures("full_float32")
def test_a_recorded_network_says_what_it_says_kernel_by_kernel(config: Config) -> None:
    """The second batch of a size is recorded, the third replayed; boxes are the CPU's."""
    model = BlitzNet(config().model)
    here = Engine(copy.deepcopy(model).to("cuda:0"), InferenceSettings(graphs=True))
    there = Engine(model)
    side, rng = model.config.input_size, torch.Generator().manual_seed(1)
    for count in (2, 2, 3, 2, 2):
        shape = (count, 3, side, side)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
        outputs = here.outputs(images.to("cuda:0"))
        for one, other in zip(
            tree_leaves(outputs), tree_leaves(there.outputs(images)), strict=True
        ):
            assert float((one.cpu() - other).abs().max()) < 1e-3 * float(other.abs().max())
        sizes = [(50, 70)] * count
        for (found, drawn), (wanted, right) in zip(
            here(images, sizes), there(images, sizes), strict=True
        ):
            assert len(found) == pytest.approx(len(wanted), abs=3)
            assert np.mean(drawn == right) > 0.99


@pytest.mark.usefixtures("full_float32")
def test_every_gpu_has_a_part_in_one_training(
    devkit: Devkit, cpu_cache: TutorCache, config: Config, tmp_path: Path
) -> None:
    """Below torchrun, over nccl: as many processes as there are GPUs, the curve of one."""
    gpus = torch.cuda.device_count()
    while 8 % gpus:
        gpus -= 1
    settings = config("auto", steps=STEPS)
    train(dataclasses.replace(settings), devkit, cpu_cache, tmp_path / "one")
    (tmp_path / "config.toml").write_text(to_toml(settings), encoding="utf-8")
    arguments = [
        "--voc", devkit.root, "--cache", cpu_cache.path, "--config", tmp_path / "config.toml",
        "--out", tmp_path / "all",
    ]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*torchrun, f"--nproc-per-node={gpus}", "-m", "kdcli", "train-student",
         *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )  # fmt: skip
    # The processes of torchrun round convolutions to TF32, as training does.
    assert curve(tmp_path / "all") == pytest.approx(curve(tmp_path / "one"), rel=5e-3)
    record = json.loads((tmp_path / "all" / "run.json").read_text())
    assert record["starts"][0]["processes"] == gpus


def test_want_of_memory_says_what_to_set(
    devkit: Devkit, cpu_cache: TutorCache, config: Config, tmp_path: Path
) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-3)
    try:
        with pytest.raises(StudentError, match=r"GPU's memory does not suffice.*accumulate=2"):
            train(config(steps=1), devkit, cpu_cache, tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_training_on_a_gpu_learns(
    devkit: Devkit, cpu_cache: TutorCache, config: Config, tmp_path: Path
) -> None:
    fast = config(steps=80, lr=1e-3, bf16=True, channels_last=True, log_every=10)
    train(fast, devkit, cpu_cache, tmp_path / "run")
    losses = curve(tmp_path / "run")
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
