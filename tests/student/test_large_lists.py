"""Lists so long that not everything is read before the first step; here a few images are many."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError
from kdcli.student.config.schema import RunConfig
from kdcli.student.data import ground_truth, photographs
from kdcli.student.data.dataset import Draw, StudentDataset, make_loader
from kdcli.student.data.ground_truth import GroundTruth, TruthOnDemand, read_truth
from kdcli.student.data.loading import steps
from kdcli.student.data.plan import make_plan
from kdcli.student.data.targets import ImageTargets, Targets, terms_of
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]


@pytest.fixture
def changed(devkit: Devkit, tmp_path: Path) -> tuple[Devkit, str]:
    """A devkit with one photograph that no tutor saw, and its id."""
    copy = Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))
    image_id = copy.image_ids("Segmentation/trainval")[1]
    with copy.image_path(image_id).open("ab") as file:
        file.write(b"\0")
    return copy, image_id


def test_targets_are_rows_in_arrays() -> None:
    weights = {"Grüße": (1.0, 0.25), "b": (0.0, 0.0), "": (0.7, 0.1)}
    terms = terms_of(["detection"])
    rows = [ImageTargets(name, dict(zip(terms, own, strict=True))) for name, own in weights.items()]
    table = Targets.of_rows(rows, terms)
    assert list(table) == rows == [table[i] for i in range(3)]
    assert (len(table), table[-1], list(table[1:])) == (3, rows[2], rows[1:])
    assert list(table.take(np.array([2, 0]))) == [rows[2], rows[0]]
    assert table.ids(np.array([True, False, True])) == ["Grüße", ""]
    assert table.of_term("detection_gt").tolist() == [1.0, 0.0, 0.7]
    assert list(Targets.of_rows([], terms)) == []
    with pytest.raises(IndexError):
        table[3]
    assert list(pickle.loads(pickle.dumps(table))) == rows


@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_beyond_the_first_are_compared_when_they_are_read(
    changed: tuple[Devkit, str],
    cache: TutorCache,
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    devkit, image_id = changed
    config = small(targets__detection__source="tutor", runtime__workers=workers)
    with pytest.raises(CacheError, match=f"{image_id}: the image file changed"):
        make_plan(config, devkit, cache)
    monkeypatch.setattr(photographs, "READ_BEFORE", 6)
    plan = make_plan(config, devkit, cache)  # reads every other one
    data = StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)
    place = [row.image_id for row in plan.learning].index(image_id)
    for other in range(len(data)):
        if other != place:
            data[Draw(0, other)]
    assert np.flatnonzero(data.check.due).tolist() == [place]
    with pytest.raises(CacheError, match="the cache does not fit") as caught:
        list(steps(make_loader(data, 0, torch.device("cpu")), config.optim.accumulate))
    assert f"{image_id}: the image file changed" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_of_few_photographs_none_is_read_twice(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = small(targets__detection__source="tutor")
    plan = make_plan(config, devkit, cache)
    data = StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)
    data[Draw(0, 0)]
    assert data.check.cache is None
    assert data.check.due.all()


def test_boxes_may_be_parsed_when_they_are_asked_for(
    devkit: Devkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = devkit.image_ids("Segmentation/trainval")
    rows = Targets.of(ids, np.ones((len(ids), 2)), terms_of(["detection"]))
    taught = np.ones(len(ids), bool)
    for difficult in (True, False):
        monkeypatch.setattr(ground_truth, "PARSED_BEFORE", len(ids))
        before = read_truth(devkit, rows, taught, difficult)
        monkeypatch.setattr(ground_truth, "PARSED_BEFORE", len(ids) - 1)
        asked = read_truth(devkit, rows, taught, difficult)
        assert isinstance(before, GroundTruth)
        assert isinstance(asked, TruthOnDemand)
        for image_id in (*ids, "nowhere"):
            for one, other in zip(before.of(image_id), asked.of(image_id), strict=True):
                assert one.dtype == other.dtype
                assert np.array_equal(one, other)
