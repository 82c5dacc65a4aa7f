"""Instance masks as a task: aligned samples, every source, runs that learn them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as pycoco

from kdcli import load_student
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.data.batch import collate
from kdcli.student.data.dataset import Draw, StudentDataset
from kdcli.student.data.plan import make_plan
from kdcli.student.evaluation.evaluate import evaluate_student
from kdcli.student.evaluation.onnx import export_onnx
from kdcli.student.evaluation.predict import predict
from kdcli.student.losses.pasting import paste
from kdcli.student.training.train import train
from kdcli.voc.devkit import OBJECT_MASKS, Devkit
from kdcli.voc.instances import instance_truth
from kdcli.voc.labels import VOID
from kdcli.voc.metrics import compare, evaluate_instances

Small = Callable[..., RunConfig]
LIST = "Segmentation/trainval"
THREE = ["detection", "segmentation", "instances"]


@pytest.fixture(scope="module")
def keeping(
    make_cache: Callable[..., TutorCache], tmp_path_factory: pytest.TempPathFactory
) -> TutorCache:
    return make_cache(tmp_path_factory.mktemp("keeping") / "cache.zarr", keep_masks=True)


@pytest.fixture
def three(small: Small) -> Small:
    """Returns a function: a small run of three tasks."""

    def build(**changes: object) -> RunConfig:
        return small(**{"model__tasks": THREE, **changes})

    return build


def dataset(devkit: Devkit, cache: TutorCache | None, config: RunConfig) -> StudentDataset:
    plan = make_plan(config, devkit, cache)
    return StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)


def test_ground_truth_and_tutors_stay_aligned(
    devkit: Devkit, keeping: TutorCache, three: Small
) -> None:
    """Both say the same objects; through any drawn crop, zoom and flip they must still overlap."""
    config = three(targets__instances__source="combination", model__input_size=160)
    samples = dataset(devkit, keeping, config)
    batch = collate([samples[Draw(epoch, row)] for epoch in range(4) for row in range(8)])
    part = batch.parts["instances"]
    torch.testing.assert_close(part.gt.boxes, part.tutor.found.boxes.clamp(0, 1))
    assert torch.equal(part.gt.labels, part.tutor.found.labels)
    side = part.objects.shape[-1]
    said = paste(part.tutor.masks, part.tutor.found.boxes, side) > 0.5
    objects = part.objects[:, None]
    known = (objects == part.gt.labels[:, :, None, None]) & (part.gt.labels > 0)[:, :, None, None]
    said &= objects != VOID
    both, either = int((known & said).sum()), int((known | said).sum())
    assert either > 2000
    assert both / either > 0.75  # 28 x 28 cells blur the borders, and see other objects' pixels
    assert int((known & said.flip(3)).sum()) / either < 0.5  # the comparison can tell
    found = part.tutor.found
    assert found.scores[found.labels > 0].numpy() == pytest.approx(0.9)


def test_boxes_of_instances_are_detections_and_numbers_their_rows(
    devkit: Devkit, three: Small
) -> None:
    samples = dataset(devkit, None, three())
    for row in range(8):
        sample = samples[Draw(2, row)]
        part, found = sample.parts["instances"], sample.parts["detection"].gt
        np.testing.assert_array_equal(part.gt.boxes, found.boxes)
        np.testing.assert_array_equal(part.gt.labels, np.arange(1, len(found) + 1))
        classes = sample.parts["segmentation"].mask
        for number, label in zip(part.gt.labels, found.labels, strict=True):
            assert set(np.unique(classes[part.objects == number])) <= {label}


def test_crops_are_those_of_a_run_without_instances(
    devkit: Devkit, three: Small, small: Small
) -> None:
    with_masks, without = dataset(devkit, None, three()), dataset(devkit, None, small())
    for row in range(4):
        one, other = with_masks[Draw(1, row)], without[Draw(1, row)]
        np.testing.assert_array_equal(one.image, other.image)


SOURCES = {
    "gt": {"source": "gt"},
    "tutor": {"source": "tutor"},
    "share": {"source": "share", "share": 0.5},
    "fill-in": {"source": "fill-in", "gt_share": 0.5},
    "combination": {"source": "combination"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_trains(
    devkit: Devkit, keeping: TutorCache, three: Small, tmp_path: Path, source: str
) -> None:
    summary = train(three(targets__instances=SOURCES[source]), devkit, keeping, tmp_path / "run")
    assert summary.finished
    terms = {name for name in summary.losses if "instances" in name}
    assert terms == {
        f"loss/instances_{teacher}"
        for teacher in ("gt", "tutor")
        if source not in {"gt": ("tutor",), "tutor": ("gt",)}.get(teacher, ())
    }
    header, *rows = (tmp_path / "run" / "targets.csv").read_text().splitlines()
    assert header.endswith("instances_gt,instances_tutor")
    assert len(rows) == 12


@pytest.fixture(scope="module")
def run(devkit: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of detection and instances that learned its images by heart, more or less."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = run_config(
        "tiny",
        {
            "model.tasks": ["detection", "instances"], "model.input_size": 96, "data.list": LIST,
            "augmentation.zoom_out_probability": 0.0, "augmentation.crop_tries": 0,
            "optim.steps": 160, "optim.batch_size": 6, "optim.lr": 2e-3, "optim.milestones": [140],
            "runtime.workers": 0, "runtime.log_every": 20,
        },
    )  # fmt: skip
    train(config, devkit, None, folder)
    return folder


def test_it_learns_masks(run: Path, devkit: Devkit) -> None:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss/instances_gt"] for line in lines if "loss/instances_gt" in line]
    assert losses[-1] < 0.6 * losses[0]
    evaluation = evaluate_student(run, devkit, LIST)
    result = evaluation.instances
    assert result.map_r > 0.3
    assert result.map_r > result.coco["coco_map"] > 0
    saved = json.loads((run / "evaluation-Segmentation-trainval.json").read_text())
    assert saved["instances"]["map_r"] == result.map_r
    assert saved.keys() >= {"detection", "instances"}
    assert "segmentation" not in saved
    table = (run / "evaluation-Segmentation-trainval.md").read_text()
    assert "AP^r %" in table
    assert "at .7 the mean is" in table


def test_its_predictions_are_what_is_evaluated(run: Path, devkit: Devkit, tmp_path: Path) -> None:
    student = load_student(run)
    ids = devkit.image_ids(LIST)
    compared = []
    for image_id in ids:
        said, truth = student.predict(devkit.read_image(image_id)), instance_truth(devkit, image_id)
        assert truth is not None
        found = said.instances
        np.testing.assert_array_equal(found.boxes, said.detections.boxes)
        compared.append(compare(found, found.masks(), truth))
        for mask, (x1, y1, x2, y2) in zip(found.masks(), found.boxes, strict=True):
            rows, columns = np.nonzero(mask)
            assert mask.shape == devkit.image_size(image_id)
            assert not len(rows) or (rows.min() >= int(y1) and columns.min() >= int(x1))
            assert not len(rows) or (rows.max() < y2 + 1 and columns.max() < x2 + 1)
    expected = evaluate_instances(compared, devkit.labels.all_names)
    result = evaluate_student(run, devkit, LIST, batch_size=5, workers=1).instances
    assert result.map_r == pytest.approx(expected.map_r, abs=1e-3)
    assert result.coco == pytest.approx(expected.coco, abs=1e-3)


def test_predictions_as_files(run: Path, devkit: Devkit, tmp_path: Path) -> None:
    image_id = devkit.image_ids(LIST)[0]
    predict(run, [(image_id, devkit.image_path(image_id))], tmp_path, threshold=0.2)
    names = {f"{image_id}{end}" for end in (".overlay.png", ".json", ".instances.json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    written = json.loads((tmp_path / f"{image_id}.instances.json").read_text())["instances"]
    said = load_student(run).predict(devkit.read_image(image_id)).instances
    assert len(written) == len(said) > 0
    for each, mask, label in zip(written, said.masks(), said.labels, strict=True):
        assert each["class"] == devkit.labels.all_names[label]
        np.testing.assert_array_equal(pycoco.decode(each["segmentation"]), mask)


def test_the_onnx_file_says_the_masks(run: Path, devkit: Devkit, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "student.onnx"
    exported = export_onnx(run, path)
    assert exported.difference is not None
    assert exported.difference < 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    assert names == ["boxes", "probabilities", "prototypes", "coefficients"]
    student = load_student(run)
    side = student.config.model.input_size
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    said = dict(zip(names, session.run(None, {"images": image[None]}), strict=True))
    found = student.predict(image).instances
    np.testing.assert_allclose(found.prototypes, said["prototypes"][0], atol=1e-4)
    table = said["coefficients"][0]
    for own in found.coefficients[:5]:
        assert np.abs(table - own).max(axis=1).min() < 1e-4


def test_images_without_object_masks_are_filled_in(
    devkit: Devkit, keeping: TutorCache, three: Small, tmp_path: Path
) -> None:
    voc = Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))
    ids = voc.image_ids("Segmentation/trainval")
    for image_id in ids[:7]:
        voc.mask_path(image_id, OBJECT_MASKS).unlink()
    config = three(targets__instances__source="fill-in")
    rows = make_plan(config, voc, keeping).rows
    weights = [(row.of("instances_gt"), row.of("instances_tutor")) for row in rows]
    assert weights == [(0.0, 1.0)] * 7 + [(1.0, 0.0)] * 5
    assert all(row.of("segmentation_gt") == 1 for row in rows)
    with pytest.raises(StudentError, match="7 of the 12 training images have no ground truth for"):
        make_plan(three(), voc, None)


def test_a_store_without_masks_is_refused(devkit: Devkit, cache: TutorCache, three: Small) -> None:
    with pytest.raises(StudentError, match=r"targets\.instances\.source = 'tutor'.*--keep-masks"):
        make_plan(three(targets__instances__source="tutor"), devkit, cache)


def test_instances_need_detection(devkit: Devkit, small: Small) -> None:
    with pytest.raises(StudentError, match="instances builds on detection"):
        make_plan(small(model__tasks=["segmentation", "instances"]), devkit, None)
