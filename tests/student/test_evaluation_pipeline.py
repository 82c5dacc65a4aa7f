"""Evaluation and prediction while others read, draw and write: the same results, nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcli.common.errors import DevkitError, ResourceError, StudentError
from kdcli.common.files import TEMPORARY
from kdcli.student.config.toml import run_config
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.evaluate import evaluate_model
from kdcli.student.evaluation.inference import infer, one_behind
from kdcli.student.evaluation.predict import predict
from kdcli.student.evaluation.work import worked_off
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.runs.load import load_run
from kdcli.student.tasks.pixel_scores import PixelCounts
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import ConfusionMatrix, evaluate_detections

LIST = "Segmentation/trainval"
FOLDER = "SegmentationClass"


@pytest.fixture(scope="module")
def run(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "short"
    settings = f"""
        data.list={LIST} init.trunk=sample optim.steps=10 optim.batch_size=4 optim.lr=2e-3
        model.input_size=96 runtime.workers=0 runtime.device=cpu evaluation.batch_size=3
    """
    train(run_config("tiny", settings.split()), devkit, None, out)
    return out


@pytest.fixture
def own(devkit: Devkit, tmp_path: Path) -> Devkit:
    """A copy that may be spoiled."""
    return Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))


def engine_of(run: Path, workers: int) -> Engine:
    return Engine(load_run(run).model, InferenceSettings(batch_size=3, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_scores_are_the_metrics_of_the_predictions(own: Devkit, run: Path, workers: int) -> None:
    ids = own.image_ids(LIST)
    own.mask_path(ids[1]).unlink()
    engine = engine_of(run, workers)
    evaluation = evaluate_model(engine, own, ids, folder=FOLDER)

    matrix, found = ConfusionMatrix(), {}
    for said in infer(engine, [(image_id, own.image_path(image_id)) for image_id in ids]):
        found[said.image_id] = said.detections
        if (mask := own.mask(said.image_id, FOLDER)) is not None:
            matrix.update(said.class_map, mask)
    true = {image_id: own.annotation(image_id) for image_id in ids}
    detection = evaluate_detections(found, {name: box for name, box in true.items() if box})
    assert detection.map > 0
    assert np.count_nonzero(matrix.counts) > 5  # not all one class
    assert evaluation.detection.to_dict() == detection.to_dict()
    assert evaluation.segmentation is not None
    wanted = matrix.result(detection.frequent_classes)
    assert evaluation.segmentation.to_dict() == wanted.to_dict()


@given(st.integers(2, 254), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_pixels_are_counted_as_by_the_metric(classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [str(i) for i in range(classes)]
    matrix, counts = ConfusionMatrix(names), PixelCounts(classes, torch.device("cpu"))
    for _ in range(2):
        shapes = [(n, 3), (1, 2)]
        said = [rng.integers(0, classes, shape, np.uint8) for shape in shapes]
        true = [rng.choice(np.append(np.arange(classes), 255), s).astype(np.uint8) for s in shapes]
        for one, other in zip(said, true, strict=True):
            matrix.update(one, other)
        flat = np.concatenate([mask.ravel() for mask in true])
        counts.update([torch.from_numpy(one) for one in said], torch.from_numpy(flat))
    assert np.array_equal(counts.counts.numpy(), matrix.counts)
    assert counts.images == 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("folder", ["Annotations", FOLDER])
def test_broken_ground_truth_ends_an_evaluation_by_its_name(
    own: Devkit, run: Path, workers: int, folder: str
) -> None:
    ids = own.image_ids(LIST)
    broken = own.annotation_path(ids[4]) if folder == "Annotations" else own.mask_path(ids[4])
    broken.write_bytes(broken.read_bytes()[:90])
    with pytest.raises(DevkitError) as caught:
        evaluate_model(engine_of(run, workers), own, ids, folder=FOLDER)
    assert str(caught.value).startswith(str(broken))
    assert "Traceback" not in str(caught.value)


def test_a_network_of_other_classes_is_refused(devkit: Devkit) -> None:
    config = replace(run_config("tiny").model, input_size=96, num_classes=5)
    engine = Engine(BlitzNet(config))
    with pytest.raises(ValueError, match="Expected a network of 21 classes, got one of 5"):
        evaluate_model(engine, devkit, devkit.image_ids(LIST), folder=FOLDER)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_workers_write_the_same_files(devkit: Devkit, run: Path, tmp_path: Path) -> None:
    images = [(image_id, devkit.image_path(image_id)) for image_id in devkit.image_ids(LIST)]
    alone = predict(run, images, tmp_path / "alone", threshold=0.1, workers=0)
    helped = predict(run, images, tmp_path / "helped", threshold=0.1, workers=2)
    assert [file.image_id for file in helped.files] == [image_id for image_id, _ in images]
    assert [file.image_id for file in alone.files] == [image_id for image_id, _ in images]
    assert files_of(tmp_path / "alone") == files_of(tmp_path / "helped")
    assert len(files_of(tmp_path / "alone")) == 3 * len(images)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_ends_prediction_and_loses_nothing(
    devkit: Devkit, run: Path, tmp_path: Path, workers: int
) -> None:
    images = [(image_id, devkit.image_path(image_id)) for image_id in devkit.image_ids(LIST)]
    out = tmp_path / "out"
    out.mkdir()
    overlay = out / f"{images[3][0]}.overlay.png"
    overlay.with_name(overlay.name + TEMPORARY).symlink_to("/dev/full")
    with pytest.raises(ResourceError) as caught:
        predict(run, images, out, workers=workers)
    assert str(caught.value).startswith(f"{overlay}: the disk is full")
    whole = files_of(
        predict(run, images[:3], tmp_path / "whole", workers=0).files[0].overlay.parent
    )
    there = files_of(out)
    assert {name: there[name] for name in whole} == whole
    assert not [name for name in there if name.endswith(TEMPORARY)]


def square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_work_is_done_in_order(workers: int) -> None:
    assert list(worked_off(square, range(20), workers, "--workers")) == [i * i for i in range(20)]
    assert list(worked_off(square, [], workers, "--workers")) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_given_before_an_error_is_worked_off_first(workers: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise StudentError("no more")

    done: list[int] = []
    with pytest.raises(StudentError, match="no more"):
        done.extend(worked_off(square, items(), workers, "--workers"))
    assert done == [0, 1, 4, 9, 16]


def test_few_items_wait() -> None:
    asked = []

    def items() -> Iterator[int]:
        for number in range(50):
            asked.append(number)
            yield number

    for done, _ in enumerate(worked_off(square, items(), 2, "--workers")):
        assert len(asked) <= done + 1 + 2 * 2


def test_a_worker_that_the_system_ends_is_told() -> None:
    def end(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ResourceError, match=r"The system ended a worker process.*\(--workers\)"):
        list(worked_off(end, range(3), 1, "--workers"))


def test_the_next_is_asked_for_before_one_is_waited_for() -> None:
    told: list[str] = []

    def items() -> Iterator[str]:
        for name in "abc":
            told.append(f"ask {name}")
            yield name
        told.append("fail")
        raise StudentError("no more")

    with pytest.raises(StudentError, match="no more"):
        told.extend(f"wait {name}" for name in one_behind(items()))
    assert told == ["ask a", "ask b", "wait a", "ask c", "wait b", "fail", "wait c"]
