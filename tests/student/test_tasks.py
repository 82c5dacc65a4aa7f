"""Tasks as objects: a run may have any of them, and what it lacks leaves no trace."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kdcli.cache.reader import TutorCache
from kdcli.common.config import to_toml
from kdcli.common.errors import KdcliError, StudentError
from kdcli.common.files import read_json
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.tasks import TASK_NAMES
from kdcli.student.data.plan import make_plan
from kdcli.student.data.targets import terms_of
from kdcli.student.evaluation.evaluate import evaluate_student
from kdcli.student.evaluation.predict import predict
from kdcli.student.experiments.matrix import Matrix, Scale, changed_settings
from kdcli.student.experiments.recipe import parse_recipe
from kdcli.student.experiments.record import write_record
from kdcli.student.experiments.report.compare import entry
from kdcli.student.experiments.report.results import load_results
from kdcli.student.experiments.runner import Runner
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.runs.checkpoint import checkpoint_path, load_checkpoint
from kdcli.student.tasks.registry import TASKS, loss_names
from kdcli.student.training.interrupts import TrainingInterrupted
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import MEASURES

Small = Callable[..., RunConfig]
LIST = "Segmentation/trainval"
BOTH = ("detection", "segmentation")
RECIPE = """
name = "sharing"
title = "What sharing gains"
explanation = "One task alone"
[[cells]]
label = "both"
[[cells]]
label = "detector"
baseline = "both"
settings.model.tasks = ["detection"]
[[cells]]
label = "segmenter"
baseline = "both"
settings.model.tasks = ["segmentation"]
settings.targets.segmentation.source = "tutor"
"""
FILES = {"detection": ".json", "segmentation": ".mask.png"}


def test_every_task_has_its_settings_and_its_metric() -> None:
    assert tuple(TASKS) == TASK_NAMES
    assert tuple(TASKS)[:2] == BOTH
    assert [task.measure for task in TASKS.values()] == list(MEASURES)[: len(TASKS)]
    assert loss_names([TASKS["detection"]]) == (
        "detection_gt/class", "detection_gt/box", "detection_tutor/class", "detection_tutor/box",
    )  # fmt: skip


@pytest.mark.parametrize("task", BOTH)
def test_one_task_alone_is_trained_evaluated_and_predicted(
    task: str, devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = small(
        model__tasks=[task],
        evaluation__every=2,
        evaluation__list=LIST,
        optim__steps=3,
        runtime__log_every=1,
        **{f"targets__{task}__source": "combination"},
    )
    summary = train(config, devkit, cache, run)
    (other,) = set(BOTH) - {task}
    weights = load_checkpoint(checkpoint_path(run)).model
    assert any(name.startswith(f"{task}.") for name in weights)
    assert not any(name.startswith(f"{other}.") for name in weights)
    with (run / "targets.csv").open(encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == ("image_id", *terms_of([task]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {key for line in lines for key in line if key.startswith("loss/")}
    assert losses == {f"loss/{name}" for name in loss_names([TASKS[task]])}
    measure = TASKS[task].measure
    assert summary.evaluation is not None
    assert summary.evaluation.keys() == {"step", "list", f"evaluation/{measure.key}"}
    result = evaluate_student(run, devkit, LIST)
    assert list(result.results) == [task]
    assert result.score == measure.mean(result.results[task])
    with pytest.raises(AttributeError, match=f"is of {task}, not of {other}"):
        getattr(result, other)
    saved = read_json(run / f"evaluation-{LIST.replace('/', '-')}.json")
    assert task in saved
    assert other not in saved
    table = (run / f"evaluation-{LIST.replace('/', '-')}.md").read_text()
    assert measure.column in table
    assert TASKS[other].measure.column not in table
    ids = devkit.image_ids(LIST)[:2]
    written = predict(run, [(i, devkit.image_path(i)) for i in ids], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{image_id}{ending}" for image_id in ids for ending in (".overlay.png", FILES[task])
    }
    with Image.open(written.files[0].overlay) as picture:
        assert (picture.height, picture.width) == devkit.image_size(ids[0])


@pytest.mark.parametrize("task", BOTH)
def test_one_task_alone_goes_on_where_it_was_stopped(
    task: str, devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    config = small(model__tasks=[task], optim__steps=4, optim__asynchronous__enabled=True)

    def interrupted(batches: Any, total: int, label: str) -> Any:
        for done, batch in enumerate(batches, start=1):
            if done == 2:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(config, devkit, None, straight)
    with pytest.raises(TrainingInterrupted, match="after step 2 of 4"):
        train(config, devkit, None, stopped, progress=interrupted)
    train(config, devkit, None, stopped)
    first, second = (load_checkpoint(checkpoint_path(run)) for run in (straight, stopped))
    assert second.asynchronous["updates"] == {"shared": 4, task: 4}
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())


def test_recipes_compare_one_task_with_both(
    devkit: Devkit, cache: TutorCache, small: Small, tmp_path: Path
) -> None:
    scale = tmp_path / "scale.toml"
    scale.write_text(to_toml(small(optim__steps=2)), encoding="utf-8")
    recipe = parse_recipe(RECIPE, "the test")
    matrix = Matrix(devkit, cache, Scale(scale))
    out = tmp_path / "out"
    write_record(out, recipe, matrix, (1,), LIST)
    outcomes = Runner(out, devkit, cache, LIST).run(
        matrix.jobs(recipe, recipe.cells, (1,)), lambda line: None
    )
    both, detector, segmenter = (outcome.message for outcome in outcomes)
    assert [outcome.state for outcome in outcomes] == ["done"] * 3
    assert "mAP" in both
    assert "mIoU" in both
    assert "mIoU" not in detector
    assert "mAP" not in segmenter
    (result,) = load_results(out)
    assert entry(result, result.cell("segmenter"), "map").ours == "-"
    assert entry(result, result.cell("detector"), "miou").ours == "-"
    assert entry(result, result.cell("segmenter"), "miou").ours.endswith("(1)")
    assert result.cell("segmenter").runs[0].names[0] == "background"


def test_a_task_alone_learns_what_it_learns_beside_another(small: Small) -> None:
    """With the same weights its output is the same, to the bit."""
    both, alone = small().model, small(model__tasks=["segmentation"]).model
    torch.manual_seed(3)
    whole, part = BlitzNet(both).eval(), BlitzNet(alone).eval()
    weights = whole.state_dict()
    own = {name: value for name, value in weights.items() if not name.startswith("detection")}
    part.load_state_dict(own)
    images = torch.randn(2, 3, both.input_size, both.input_size)
    with torch.no_grad():
        assert torch.equal(part(images)["segmentation"], whole(images)["segmentation"])
        assert list(part(images)) == ["segmentation"]


def test_settings_of_a_task_that_a_run_lacks_are_no_part_of_its_identity(small: Small) -> None:
    plain = changed_settings(small(model__tasks=["detection"]))
    more = small(
        model__tasks=["detection"],
        targets__segmentation__source="tutor",
        targets__segmentation__form="softmax",
        optim__asynchronous__segmentation=7,
    )
    assert changed_settings(more) == plain
    assert plain["model.tasks"] == ("detection",)
    assert "model.tasks" not in changed_settings(small())


@pytest.mark.parametrize("tasks", [[], ["depth"], ["segmentation", "detection"]])
def test_tasks_are_known_and_in_order(tasks: list[str], small: Small) -> None:
    with pytest.raises(KdcliError, match=r"model\.tasks to be one or more of detection, segm"):
        small(model__tasks=tasks)


def test_a_segmenter_alone_cannot_be_confirmed_by_boxes_it_does_not_learn(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    wanted = {"targets__segmentation__source": "tutor", "model__tasks": ["segmentation"]}
    with pytest.raises(StudentError, match=r"model\.tasks lacks"):
        make_plan(small(targets__segmentation__confirm="gt-boxes", **wanted), devkit, cache)
    make_plan(small(targets__segmentation__confirm="tutor-boxes", **wanted), devkit, cache)


def test_frequent_classes_of_a_segmenter_are_those_of_the_boxes_there_are(
    devkit: Devkit, small: Small, tmp_path: Path
) -> None:
    train(small(model__tasks=["segmentation"], optim__steps=1), devkit, None, tmp_path / "one")
    train(small(optim__steps=1), devkit, None, tmp_path / "both")
    one, both = (evaluate_student(tmp_path / name, devkit, LIST) for name in ("one", "both"))
    assert one.segmentation.frequent == both.detection.frequent_classes
    assert np.isfinite(one.segmentation.miou)


def test_a_task_comes_with_what_it_builds_on(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(TASKS["detection"]), "needs", ("segmentation",))
    with pytest.raises(StudentError, match="detection builds on segmentation: add it"):
        BlitzNet(small(model__tasks=["detection"]).model)
    assert BlitzNet(small().model)
