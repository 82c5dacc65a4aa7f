"""Evaluation and prediction of a trained run."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from kdcli.cli import main
from kdcli.common.errors import DevkitError, StudentError
from kdcli.common.files import TEMPORARY
from kdcli.student.evaluation.engine import Engine, InferenceSettings
from kdcli.student.evaluation.evaluate import evaluate_model, evaluate_student
from kdcli.student.evaluation.inference import infer
from kdcli.student.evaluation.predict import find_images, predict
from kdcli.student.model.decode import BoxLimits
from kdcli.student.runs.load import load_run
from kdcli.student.training.train import train
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit

LIST = "Segmentation/val"


@pytest.fixture(scope="module")
def run(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows its four scenes by heart."""
    from kdcli.student.config.toml import run_config

    ids = devkit.image_ids(LIST)
    (devkit.root / "ImageSets" / "Main" / "known.txt").write_text("\n".join(ids) + "\n")
    settings = """
        data.list=Main/known init.trunk="" model.stride4=true model.input_size=96
        model.smallest_scale=.08 model.min_scale=.16 model.trunk_widths=[16,16,16,16]
        optim.steps=120 optim.batch_size=4 optim.lr=4e-3 optim.milestones=[100]
        augmentation.zoom_out_probability=0 augmentation.crop_area=[1,1] augmentation.crop_tries=0
        augmentation.flip_probability=0 augmentation.hue=0 augmentation.contrast=0
        runtime.workers=0 runtime.device=cpu evaluation.batch_size=3
    """
    out = tmp_path_factory.mktemp("runs") / "known"
    train(run_config("tiny", settings.split()), devkit, None, out)
    return out


def test_a_student_that_learned_its_images_by_heart_scores_high(devkit: Devkit, run: Path) -> None:
    evaluation = evaluate_student(run, devkit, LIST)
    assert evaluation.images == len(devkit.image_ids(LIST))
    assert evaluation.segmentation is not None
    assert evaluation.detection.map > 0.6
    assert evaluation.segmentation.miou > 0.5
    written = json.loads((run / "evaluation-Segmentation-val.json").read_text())
    assert written["detection"]["map"] == evaluation.detection.map
    assert written["segmentation"]["miou"] == evaluation.segmentation.miou
    assert (written["list"], written["checkpoint"], written["step"]) == (LIST, "last", 120)
    assert set(written["segmentation"]["iou"]) == set(CLASSES)
    assert written["detection"]["average_precision"]["sheep"] is None  # not among the sample's


def test_batches_and_workers_change_nothing(devkit: Devkit, run: Path) -> None:
    model = load_run(run).model
    images = [(image_id, devkit.image_path(image_id)) for image_id in devkit.image_ids(LIST)]
    one = list(infer(Engine(model, InferenceSettings(batch_size=1)), images))
    other = list(infer(Engine(model, InferenceSettings(batch_size=3, workers=2)), images))
    assert [prediction.image_id for prediction in one] == [image_id for image_id, _ in images]
    for here, there in zip(one, other, strict=True):
        assert here.detections.boxes == pytest.approx(there.detections.boxes, abs=0.05)
        assert np.mean(here.class_map == there.class_map) > 0.999
        assert here.class_map.shape == devkit.image_size(here.image_id)


def test_half_the_bits_say_much_the_same(devkit: Devkit, run: Path) -> None:
    whole = evaluate_student(run, devkit, LIST)
    half = evaluate_student(run, devkit, LIST, bf16=True, batch_size=1)
    assert half.detection.map == pytest.approx(whole.detection.map, abs=0.1)
    assert half.segmentation is not None
    assert whole.segmentation is not None
    assert half.segmentation.miou == pytest.approx(whole.segmentation.miou, abs=0.05)
    assert half.segmentation != whole.segmentation  # it did compute otherwise


def test_evaluation_leaves_the_network_as_it_was(devkit: Devkit, run: Path) -> None:
    model = load_run(run).model.train()
    before = copy.deepcopy(model.state_dict())
    engine = Engine(model, InferenceSettings(limits=BoxLimits(score=0.5)))
    evaluate_model(engine, devkit, devkit.image_ids(LIST)[:1], folder="SegmentationClass")
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_evaluating_without_ground_truth_is_refused(
    devkit: Devkit, run: Path, tmp_path: Path
) -> None:
    bare = Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))
    shutil.rmtree(bare.root / "SegmentationClass")
    assert evaluate_student(run, bare, LIST).segmentation is None
    shutil.rmtree(bare.root / "Annotations")
    with pytest.raises(StudentError, match="4 of the 4 images to evaluate on have no boxes"):
        evaluate_student(run, bare, LIST)


def score(run: Path, devkit: Devkit, *options: str) -> Result:
    command = ["evaluate-student", run, "--voc", devkit.root, "--list", LIST, *options]
    return CliRunner().invoke(main, [str(part) for part in command])


def test_a_run_that_may_only_be_read_is_scored(
    devkit: Devkit, run: Path, tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    read_only(copy)
    result = score(copy, devkit, "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "  mean " in result.output
    assert f"Not saved: {copy}/evaluation-Segmentation-val.json" in result.output


def test_scores_that_cannot_be_saved_are_shown_first(
    devkit: Devkit, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / ("evaluation-Segmentation-val.json" + TEMPORARY)).symlink_to("/dev/full")
    result = score(copy, devkit)
    assert result.exit_code == 1
    assert "  mean " in result.output
    assert "evaluation-Segmentation-val.json: the disk is full" in result.output


def test_predictions_are_files_to_look_at_and_to_read(
    devkit: Devkit, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    first, second = devkit.image_ids(LIST)[:2]
    shutil.copy(devkit.image_path(first), folder)
    Image.open(devkit.image_path(second)).save(tmp_path / "second.png")
    (folder / "notes.txt").touch()
    images = find_images([folder, tmp_path / "second.png"])
    assert [name for name, _ in images] == [first, "second"]
    result = predict(run, images, tmp_path / "out")
    assert result.failed == {}
    for written, (name, path) in zip(result.files, images, strict=True):
        with Image.open(path) as photograph, Image.open(written.said["class_map"]) as mask:
            assert mask.mode == "P"
            assert mask.size == photograph.size
            assert np.asarray(mask).max() < 21
            assert Image.open(written.overlay).size == photograph.size
            found = json.loads(written.said["detections"].read_text())
            assert (found["width"], found["height"]) == photograph.size
        scores = [box["confidence"] for box in found["boxes"]]
        assert written.image_id == name
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 0.5
        assert all(box["class"] in CLASSES[1:] for box in found["boxes"])


def test_what_cannot_be_predicted_is_named(run: Path, devkit: Devkit, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="Found no image or folder"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(StudentError, match="Found no images in"):
        find_images([tmp_path])
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    result = predict(run, find_images([tmp_path]), tmp_path / "out")
    assert result.files == []
    assert "broken.png is no picture" in result.failed["broken"]
    (tmp_path / "broken.jpg").touch()
    with pytest.raises(StudentError, match=r"would both be written as broken"):
        find_images([tmp_path])


def test_folders_and_links_among_the_photographs(devkit: Devkit, tmp_path: Path) -> None:
    photograph = Path(shutil.copy(devkit.image_path(devkit.image_ids(LIST)[0]), tmp_path / "a.jpg"))
    (tmp_path / "b.jpg").mkdir()
    (tmp_path / "c.jpg").symlink_to(tmp_path / "absent.jpg")
    found = [("a", photograph), ("c", tmp_path / "c.jpg")]
    assert find_images([tmp_path]) == found
    assert find_images([tmp_path, photograph]) == found  # named twice, predicted once


def test_bad_photographs_among_good_ones_are_left_out_and_named(
    devkit: Devkit, run: Path, tmp_path: Path
) -> None:
    first, second, third, _ = devkit.image_ids(LIST)
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(devkit.image_path(first), folder / "b.JPEG")
    Image.open(devkit.image_path(second)).save(folder / "e.jpg", "PNG")
    (folder / "a.jpg").write_bytes(b"")
    (folder / "c.jpg").write_bytes(devkit.image_path(third).read_bytes()[:900])
    (folder / "d.png").symlink_to(tmp_path / "absent.png")
    result = predict(run, find_images([folder]), tmp_path / "out", batch_size=2)
    assert [file.image_id for file in result.files] == ["b", "e"]
    assert {name: str(folder / name) in why for name, why in result.failed.items()} == {
        "a": True, "c": True, "d": True,
    }  # fmt: skip
    whole = predict(run, [(first, devkit.image_path(first))], tmp_path / "out").files[0]
    np.testing.assert_array_equal(
        np.asarray(Image.open(result.files[0].said["class_map"])),
        np.asarray(Image.open(whole.said["class_map"])),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_photograph_ends_an_evaluation_by_its_name(
    devkit: Devkit, run: Path, tmp_path: Path, workers: int
) -> None:
    own = Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))
    ids = own.image_ids(LIST)
    path = own.image_path(ids[2])
    path.write_bytes(path.read_bytes()[:-900])
    settings = InferenceSettings(batch_size=2, workers=workers)
    engine = Engine(load_run(run).model, settings)
    with pytest.raises(DevkitError) as caught:
        evaluate_model(engine, own, ids, folder="SegmentationClass")
    assert str(caught.value).startswith(f"{path} cannot be read")
    assert "Traceback" not in str(caught.value)
