"""A data set of three labels from the tutors to the ONNX file, by the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from kdcli.cache.reader import TutorCache
from kdcli.cli import main
from kdcli.student.runs.directory import recorded_config, recorded_labels
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels_file import read_labels, write_labels
from kdcli.voc.scenes.dataset import make_sample

TUTORS = ["--detection-tutor", "sample", "--segmentation-tutor", "sample"]
TRAINING = [
    *("--config", "tiny", "--list", "Segmentation/train", "--set", "optim.steps=4"),
    *("--set", "optim.batch_size=4", "--set", "evaluation.every=0", "--set", "runtime.workers=0"),
    *("--set", "targets.segmentation.source=tutor", "--set", "targets.detection.source=tutor"),
]


def kdcli(*words: object, fails: bool = False) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert (result.exit_code != 0) == fails, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def folder(
    three_labels: Callable[[Path, int], Devkit], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    three_labels(folder / "voc", 9)
    make_sample(folder / "plain", 9, seed=5)
    kdcli(
        *("generate-tutors", "--voc", folder / "voc", *TUTORS, "--out", folder / "c.zarr"),
        *("--list", "Segmentation/trainval"),
    )
    kdcli(
        *("train-student", "--voc", folder / "voc", "--cache", folder / "c.zarr", *TRAINING),
        *("--out", folder / "run"),
    )
    return folder


def test_the_run_is_of_the_data_set_s_labels(folder: Path) -> None:
    labels = Devkit.open(folder / "voc").labels
    assert TutorCache.open(folder / "c.zarr").class_names == labels.all_names
    assert recorded_labels(folder / "run") == labels
    assert recorded_config(folder / "run").model.num_classes == 4
    again = kdcli(
        *("train-student", "--voc", folder / "voc", "--cache", folder / "c.zarr", *TRAINING),
        *("--out", folder / "run"),
    )
    assert "4 of 4 steps" in again.output


def test_scores_are_by_the_labels_names(folder: Path) -> None:
    labels = Devkit.open(folder / "voc").labels
    result = kdcli("evaluate-student", folder / "run", "--voc", folder / "voc")
    saved = json.loads((folder / "run" / "evaluation-Segmentation-val.json").read_text())
    assert tuple(saved["detection"]["average_precision"]) == labels.names
    assert tuple(saved["segmentation"]["iou"]) == labels.all_names
    assert "living thing" in result.output
    tutors = kdcli("evaluate-tutors", folder / "c.zarr", "--voc", folder / "voc")
    assert "living thing" in tutors.output
    summary = kdcli("inspect-cache", folder / "c.zarr", "--voc", folder / "voc", "--verify")
    assert "vehicle" in summary.output
    assert "never labelled" not in summary.output


def test_predictions_are_in_the_labels_words_and_colours(folder: Path) -> None:
    labels = Devkit.open(folder / "voc").labels
    kdcli(
        *("predict", folder / "run", "--voc", folder / "voc", "--list", "Segmentation/val"),
        *("--out", folder / "said", "--gallery", folder / "said.html"),
    )
    masks = sorted((folder / "said").glob("*.mask.png"))
    assert len(masks) == 3
    for path in masks:
        with Image.open(path) as mask:
            assert np.asarray(mask).max() <= 3
            palette = np.array(mask.getpalette()).reshape(-1, 3)
            assert palette[:4].tolist() == labels.palette[:4].tolist()
    boxes = [each for path in (folder / "said").glob("*.json")
             for each in json.loads(path.read_text())["boxes"]]  # fmt: skip
    assert {each["class"] for each in boxes} <= set(labels.names)
    assert "living thing" in (folder / "said.html").read_text()
    assert "aeroplane" not in (folder / "said.html").read_text()


def test_the_onnx_file_carries_the_labels(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    labels = Devkit.open(folder / "voc").labels
    path = folder / "student.onnx"
    kdcli("export-onnx", folder / "run", "--out", path)
    facts = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert facts["classes"] == "background,vehicle,living thing,thing"
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    side = recorded_config(folder / "run").model.input_size
    _, probabilities, cells = session.run(None, {"images": np.zeros((1, side, side, 3), np.uint8)})
    assert (probabilities.shape[-1], cells.shape[1]) == (4, 4)
    # It is a tutor of these labels by its own words; the data set's [map] is of other teachers'.
    names = folder / "names.toml"
    write_labels(names, type(labels)(labels.names))
    kdcli(
        *("generate-tutors", "--voc", folder / "voc", "--labels", names, "--detection-tutor", path),
        *("--segmentation-tutor", path, "--list", "Segmentation/val"),
        *("--out", folder / "onnx.zarr"),
    )
    found = TutorCache.open(folder / "onnx.zarr")
    assert found.class_names == labels.all_names
    assert found.has_grids
    assert found.palette(found.image_ids[0]).shape[1] == 4
    assert found.settings["detection"]["means"] == {name: name for name in labels.names}
    refused = kdcli(
        *("generate-tutors", "--voc", folder / "voc", "--detection-tutor", path, "--dry-run"),
        *("--segmentation-tutor", "none", "--out", folder / "no.zarr"),
        fails=True,
    )
    assert "none of its classes is one of the data set's labels" in refused.output


def test_what_a_tutor_never_labels_is_said_before_the_run_and_of_the_store(folder: Path) -> None:
    labels = read_labels(folder / "voc" / "labels.toml")
    more = type(labels)((*labels.names, "teapot"), labels.colours, labels.words)
    write_labels(folder / "more.toml", more)
    voc = shutil.copytree(folder / "voc", folder / "more")
    shutil.move(folder / "more.toml", folder / "more" / "labels.toml")
    run = ["generate-tutors", "--voc", voc, *TUTORS, "--list", "Segmentation/val"]
    dry = kdcli(*run, "--out", folder / "more.zarr", "--dry-run")
    assert "the detection tutor never labels: teapot" in dry.output
    real = kdcli(*run, "--out", folder / "more.zarr")
    assert "the segmentation tutor never labels: teapot" in real.output
    assert "teapot" in kdcli("inspect-cache", folder / "more.zarr").output


@pytest.mark.parametrize(
    "words",
    [
        "train-student --voc {}/plain --cache {}/c.zarr --out {}/other " + " ".join(TRAINING),
        "train-student --voc {}/plain --cache {}/c.zarr --out {}/run " + " ".join(TRAINING),
        "evaluate-student {}/run --voc {}/plain",
        "evaluate-tutors {}/c.zarr --voc {}/plain",
        "compare-tutors {}/c.zarr --voc {}/plain",
        "inspect-cache {}/c.zarr --voc {}/plain --gallery {}/no.html",
        "generate-tutors --voc {}/plain --detection-tutor sample --segmentation-tutor sample "
        "--out {}/c.zarr --list Segmentation/trainval",
    ],
)
def test_other_labels_than_the_data_set_s_are_refused(folder: Path, words: str) -> None:
    result = kdcli(*(word.replace("{}", str(folder)) for word in words.split()), fails=True)
    assert "vehicle, living thing, thing" in result.output
    assert "aeroplane" in result.output


def test_the_number_of_classes_is_no_setting(folder: Path) -> None:
    result = kdcli(
        *("train-student", "--voc", folder / "voc", "--out", folder / "knob"),
        *("--set", "model.num_classes=7"),
        fails=True,
    )
    assert "is the number of the data set's labels" in result.output
    written = folder / "recorded.toml"
    shutil.copy(folder / "run" / "config.toml", written)
    kdcli(
        *("train-student", "--voc", folder / "plain", "--config", written, "--out", folder / "p"),
        *("--set", "targets.segmentation.source=gt", "--set", "targets.detection.source=gt"),
        *("--set", "optim.steps=1"),
    )
    assert recorded_config(folder / "p").model.num_classes == 21
    assert not (folder / "p" / "labels.toml").exists()
