"""Running recipes: each run once, whoever does it; a failed one is told and the others go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.common.errors import StudentError
from kdcli.common.files import read_json
from kdcli.student.config.schema import RunConfig
from kdcli.student.experiments.matrix import Job, Matrix, Scale, cell_folder, distinct
from kdcli.student.experiments.recipe import Recipe, parse_recipe
from kdcli.student.experiments.record import write_record
from kdcli.student.experiments.runner import FAILURE, Runner, Worker
from kdcli.student.runs.checkpoint import checkpoint_path
from kdcli.student.training.interrupts import TrainingInterrupted
from kdcli.voc.devkit import Devkit

VAL = "Segmentation/val"
TEXT = """
name = "own"
title = "Own"
explanation = "Mine"
[[cells]]
label = "GT"
[[cells]]
label = "broken"
settings.optim.lr = 1e30
[[cells]]
label = "tutor"
baseline = "GT"
settings.targets.segmentation.source = "tutor"
"""
HOLD = """
import sys, time
from pathlib import Path
from kdcli.student.runs.directory import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(TEXT, "the test")


@pytest.fixture
def matrix(
    devkit: Devkit, cache: TutorCache, small: Callable[..., RunConfig], tmp_path: Path
) -> Matrix:
    scale = tmp_path / "scale.toml"
    scale.write_text(to_toml(small(optim__steps=4)), encoding="utf-8")
    return Matrix(devkit, cache, Scale(scale))


@pytest.fixture
def runner(matrix: Matrix, tmp_path: Path) -> Runner:
    return Runner(tmp_path / "out", matrix.devkit, matrix.cache, VAL)


def states(runner: Runner, jobs: list[Job]) -> dict[str, str]:
    outcomes = runner.run(jobs, lambda line: None)
    return {outcome.job.title: outcome.state for outcome in outcomes}


def test_every_run_is_trained_once_and_a_failed_one_stops_no_other(
    recipe: Recipe, matrix: Matrix, runner: Runner
) -> None:
    jobs = matrix.jobs(recipe, recipe.cells, (1,))
    titles = [f"own: {label}, seed 1" for label in ("GT", "broken", "tutor")]
    lines: list[str] = []
    outcomes = runner.run(jobs, lines.append)
    assert {o.job.title: o.state for o in outcomes} == dict(
        zip(titles, ("done", "failed", "done"), strict=True)
    )
    failure = (cell_folder(runner.out, jobs[1].name) / FAILURE).read_text()
    assert "optim.lr" in failure
    assert failure.strip() in "\n".join(lines)
    gt = cell_folder(runner.out, jobs[0].name)
    evaluation = read_json(gt / "run" / "evaluation-Segmentation-val.json")
    assert evaluation["step"] == 4
    assert len(list((gt / "samples").glob("*.overlay.png"))) == 4
    assert len(list((runner.out / "samples").glob("*.png"))) == 4
    written = {path: path.stat().st_mtime_ns for path in gt.rglob("*") if path.name != ".lock"}
    assert states(runner, jobs) == dict(zip(titles, ("kept", "failed", "kept"), strict=True))
    assert written == {path: path.stat().st_mtime_ns for path in written}


def test_a_finished_run_is_told_by_both_means(
    recipe: Recipe, matrix: Matrix, runner: Runner
) -> None:
    """Four scenes have no frequent class; with one, its mean is told, too."""
    jobs = matrix.jobs(recipe, recipe.cells[:1], (1,))
    (done,) = runner.run(jobs, lambda line: None)
    assert "frequent" not in done.message
    path = cell_folder(runner.out, jobs[0].name) / "run" / "evaluation-Segmentation-val.json"
    evaluation = read_json(path)
    assert evaluation["detection"]["map_frequent"] is None
    evaluation["detection"]["map_frequent"] = 0.5
    evaluation["segmentation"]["miou_frequent"] = 0.25
    path.write_text(json.dumps(evaluation))
    (kept,) = runner.run(jobs, lambda line: None)
    assert (kept.state, kept.message) == ("kept", f"{done.message}; frequent 50.0, 25.0")


def test_a_stopped_run_goes_on_from_its_checkpoint(
    recipe: Recipe, matrix: Matrix, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first run ends everything; the same call takes up there."""
    jobs = matrix.jobs(recipe, [recipe.cells[0], recipe.cells[2]], (1,))
    seen: list[object] = []

    def stop_after_two(items: object, total: int, label: str) -> object:
        for item in items:  # type: ignore[attr-defined]
            seen.append(item)
            if len(seen) == 2:
                os.kill(os.getpid(), 2)
            yield item

    stopping = Runner(runner.out, runner.devkit, runner.cache, VAL, progress=stop_after_two)  # type: ignore[arg-type]
    with pytest.raises(TrainingInterrupted):
        stopping.run(jobs, lambda line: None)
    run = cell_folder(runner.out, jobs[0].name) / "run"
    assert checkpoint_path(run).is_file()
    assert not cell_folder(runner.out, jobs[1].name).exists()
    assert set(states(runner, jobs).values()) == {"done"}
    starts = read_json(run / "run.json")["starts"]
    assert [start["step"] for start in starts] == [0, 2]


def test_a_run_that_another_process_is_at_is_left_to_it(
    recipe: Recipe, matrix: Matrix, runner: Runner
) -> None:
    jobs = matrix.jobs(recipe, recipe.cells[:1], (1,))
    folder = cell_folder(runner.out, jobs[0].name)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert states(runner, jobs) == {"own: GT, seed 1": "busy"}
    finally:
        process.kill()
        process.communicate()
    assert not (folder / "run").exists()


@given(count=st.integers(0, 12), world=st.integers(1, 5))
def test_shares_are_disjoint_and_everybody_helps_in_the_end(count: int, world: int) -> None:
    jobs = [Job(str(number), RunConfig(), "") for number in range(count)]
    orders = [Worker(rank, world).order(jobs) for rank in range(world)]
    assert all(sorted(order, key=jobs.index) == jobs for order in orders)
    first = [order[0] for order in orders if order][: min(count, world)]
    assert len({job.digest for job in first}) == min(count, world)


def test_below_torchrun_each_process_trains_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Worker.of_torchrun() == Worker(3, 4, 1)
    # What would make train() join the processes into one training is gone.
    assert not {"RANK", "WORLD_SIZE"} & set(os.environ)
    assert Worker.of_torchrun() == Worker(0, 1, None)


def test_the_record_adds_seeds_and_refuses_other_settings(
    recipe: Recipe, matrix: Matrix, runner: Runner
) -> None:
    out = runner.out
    write_record(out, recipe, matrix, (1,), VAL)
    write_record(out, recipe, matrix, (3, 2), VAL)
    record = json.loads((out / "recipes" / "own.json").read_text())
    assert record["seeds"] == [1, 2, 3]
    jobs = matrix.jobs(recipe, recipe.cells, (1, 2, 3))
    assert {name for runs in record["cells"].values() for name in runs.values()} == {
        job.name for job in distinct(jobs)
    }
    assert parse_recipe(record["recipe"], "the record") == recipe
    other = Matrix(matrix.devkit, matrix.cache, Scale(matrix.scale.config, ("optim.lr=0.5",)))
    with pytest.raises(StudentError, match=r"optim\.lr: 0\.001 there, 0\.5 now"):
        write_record(out, recipe, other, (1,), VAL)
    with pytest.raises(StudentError, match="evaluated on"):
        write_record(out, recipe, matrix, (1,), "Segmentation/trainval")
