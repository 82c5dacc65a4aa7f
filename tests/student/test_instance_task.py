"""Instance masks as a task: aligned samples, every source, runs that learn them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.batch import collate
from kdcli.student.data.dataset import Draw, StudentDataset
from kdcli.student.data.plan import make_plan
from kdcli.student.losses.pasting import paste
from kdcli.student.training.train import train
from kdcli.voc.devkit import OBJECT_MASKS, Devkit
from kdcli.voc.labels import VOID

Small = Callable[..., RunConfig]
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


def test_it_learns_masks(devkit: Devkit, three: Small, tmp_path: Path) -> None:
    config = three(
        model__tasks=["detection", "instances"],
        optim={"steps": 60, "batch_size": 4, "lr": 2e-3, "milestones": []},
        runtime__log_every=10,
    )
    train(config, devkit, None, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [
        line["loss/instances_gt"] for line in map(json.loads, lines) if "loss/instances_gt" in line
    ]
    assert losses[-1] < 0.85 * losses[0]


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
