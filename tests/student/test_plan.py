"""What is checked before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError, StudentError
from kdcli.student.config.schema import RunConfig
from kdcli.student.data.plan import class_masks, make_plan
from kdcli.student.training.train import train
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]


@pytest.fixture
def damaged(devkit: Devkit, tmp_path: Path) -> Devkit:
    """A copy of the devkit, to be damaged."""
    return Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))


def test_missing_ground_truth_stops_before_anything_is_written(
    damaged: Devkit, small: Small, tmp_path: Path
) -> None:
    for mask in sorted((damaged.root / "SegmentationClass").iterdir())[:5]:
        mask.unlink()
    with pytest.raises(StudentError, match="5 of the 12 training images have no ground truth for"):
        train(small(), damaged, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    plan = make_plan(small(targets__segmentation__missing_gt="skip"), damaged, None)
    assert plan.facts["counts"]["segmentation_gt"] == 7


def test_the_augmented_sets_masks_belong_to_its_lists(
    damaged: Devkit, small: Small, cache: TutorCache
) -> None:
    """No tutor stands in for ground truth that a list's folder has, whatever the list is called."""
    added = damaged.root / "SegmentationClassAug"
    added.mkdir()
    lists = damaged.root / "ImageSets" / "Segmentation"
    shutil.copy(lists / "trainval.txt", lists / "trainval_aug.txt")
    for mask in sorted((damaged.root / "SegmentationClass").iterdir())[:5]:
        mask.rename(added / mask.name)
    fill_in = {"targets__segmentation__source": "fill-in"}
    for changed, expected in (
        ({"data__list": "Segmentation/trainval_aug"}, 12),
        ({"data__mask_folder": added.name}, 12),
        ({}, 7),
    ):
        config = small(**fill_in, **changed)
        plan = make_plan(config, damaged, cache)
        assert plan.facts["counts"]["segmentation_gt"] == expected
        assert plan.mask_folder == class_masks(config, config.data.list)
    assert class_masks(small(data__mask_folder="Mine"), "Segmentation/val") == "SegmentationClass"


def test_a_mask_folder_that_is_not_there_is_refused(
    devkit: Devkit, small: Small, cache: TutorCache
) -> None:
    config = small(
        targets__segmentation__source="fill-in", data__mask_folder="SegmentationClassAgu"
    )
    with pytest.raises(StudentError, match=r"Found no folder .*SegmentationClassAgu"):
        make_plan(config, devkit, cache)


def test_a_tutor_without_a_cache_is_refused(devkit: Devkit, small: Small) -> None:
    with pytest.raises(StudentError, match="segmentation targets ask for a tutor, but no cache"):
        make_plan(small(targets__segmentation__source="tutor"), devkit, None)


def test_a_cache_without_the_role_is_refused(
    devkit: Devkit, small: Small, tmp_path: Path, make_cache: Callable[..., TutorCache]
) -> None:
    cache = make_cache(tmp_path / "boxes.zarr", roles=("detection",))
    with pytest.raises(CacheError, match="no segmentation tutor"):
        make_plan(
            small(targets__segmentation__source="fill-in", targets__gt_share=0.5), devkit, cache
        )
    plan = make_plan(small(targets__detection__source="tutor"), devkit, cache)
    assert plan.facts["cache"] == cache.fingerprint


def test_a_cache_of_other_images_is_refused(
    devkit: Devkit, damaged: Devkit, cache: TutorCache, small: Small
) -> None:
    image_id = devkit.image_ids("Segmentation/trainval")[0]
    with damaged.image_path(image_id).open("ab") as file:
        file.write(b"\0")
    config = small(targets__detection__source="tutor")
    make_plan(config, devkit, cache)
    with pytest.raises(CacheError, match=image_id):
        make_plan(config, damaged, cache)


def test_a_cache_that_lacks_images_is_refused(
    devkit: Devkit, small: Small, tmp_path: Path, make_cache: Callable[..., TutorCache]
) -> None:
    ids = devkit.image_ids("Segmentation/trainval")
    cache = make_cache(tmp_path / "part.zarr", image_ids=ids[:-1])
    with pytest.raises(CacheError, match=ids[-1]):
        make_plan(small(targets__detection__source="tutor"), devkit, cache)
