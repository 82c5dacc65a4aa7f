"""Soft masks and confirming boxes on their way from the cache to the targets of a batch."""

from __future__ import annotations

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
from kdcli.student.losses.soft_labels import look_up, soft_vectors, tutor_targets
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]


def dataset(devkit: Devkit, cache: TutorCache, config: RunConfig) -> StudentDataset:
    plan = make_plan(config, devkit, cache)
    return StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)


@pytest.fixture(scope="module")
def soft_cache(
    make_cache: Callable[..., TutorCache], tmp_path_factory: pytest.TempPathFactory
) -> TutorCache:
    return make_cache(tmp_path_factory.mktemp("soft") / "cache.zarr", keep_masks=True)


def test_tutor_masks_stay_aligned_with_the_label_map(
    devkit: Devkit, soft_cache: TutorCache, small: Small
) -> None:
    """Both say the same objects; through any drawn crop, zoom and flip they must still overlap."""
    config = small(
        targets__segmentation__source="tutor",
        targets__segmentation__masks="soft",
        model__input_size=160,
    )
    samples = dataset(devkit, soft_cache, config)
    batch = collate([samples[Draw(epoch, row)] for epoch in range(4) for row in range(8)])
    pixels = batch.parts["segmentation"]
    side = pixels.index_maps.shape[-1]
    hard = look_up(pixels.index_maps, pixels.palettes) > 0.45
    soft = soft_vectors(pixels.instances, 21, side) > 0.45
    both, either = int((hard & soft).sum()), int((hard | soft).sum())
    assert either > 2000
    assert both / either > 0.85  # 28 x 28 cells blur the borders of thin parts
    mirrored = soft_vectors(pixels.instances, 21, side).flip(3) > 0.45
    assert int((hard & mirrored).sum()) / either < 0.6  # the comparison can tell


def test_confirming_boxes_are_those_of_the_image_wherever_the_crop_lies(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = small(targets__segmentation__source="tutor", targets__segmentation__confirm="gt-boxes")
    samples = dataset(devkit, cache, config)
    for row in range(6):
        sample = samples[Draw(1, row)]
        annotation = devkit.annotation(sample.image_id)
        assert annotation is not None
        confirming = sample.parts["segmentation"].confirming
        assert confirming.labels.tolist() == annotation.labels.tolist()
        assert len(sample.parts["detection"].gt.labels) <= len(annotation.labels)


def test_images_whose_boxes_are_not_learned_are_not_confirmed_by_them(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    """Ground truth that a run withholds may not come in by the back door."""
    config = small(
        targets__gt_share=0.5,
        targets__detection__source="fill-in",
        targets__segmentation__source="tutor",
        targets__segmentation__confirm="gt-boxes",
    )
    samples = dataset(devkit, cache, config)
    asked = {
        row.image_id: samples[Draw(0, i)].parts["segmentation"].confirming
        for i, row in enumerate(samples.rows)
    }
    learned = {row.image_id: row.of("detection_gt") > 0 for row in samples.rows}
    assert 0 < sum(learned.values()) < len(learned)
    assert {i: boxes is not None for i, boxes in asked.items()} == learned


def test_a_class_nobody_confirms_becomes_background(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    """The detection tutor's boxes all reach a confidence of .9, none .95."""
    for threshold, seen in ((0.5, True), (0.95, False)):
        config = small(
            targets__segmentation__source="tutor",
            targets__segmentation__confirm="tutor-boxes",
            targets__segmentation__confirm_threshold=threshold,
        )
        samples = dataset(devkit, cache, config)
        batch = collate([samples[Draw(0, row)] for row in range(4)])
        target = tutor_targets(batch.parts["segmentation"], config.targets.segmentation, 21)
        torch.testing.assert_close(target.distributions.sum(dim=1), torch.ones_like(target.weights))
        assert bool((target.distributions[:, 1:] > 0).any()) is seen


def test_soft_targets_of_a_cache_without_masks_are_refused(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = small(targets__segmentation__source="tutor", targets__segmentation__masks="soft")
    with pytest.raises(StudentError, match="--keep-masks"):
        make_plan(config, devkit, cache)


def test_confirmation_by_a_tutor_needs_its_boxes(
    devkit: Devkit, make_cache: Callable[..., TutorCache], small: Small, tmp_path: Path
) -> None:
    only = make_cache(tmp_path / "cache.zarr", roles=("segmentation",))
    config = small(
        targets__segmentation__source="tutor", targets__segmentation__confirm="tutor-boxes"
    )
    with pytest.raises(Exception, match="detection"):
        make_plan(config, devkit, only)


def test_a_teacher_drawn_at_each_visit_changes_but_repeats(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = small(
        targets__segmentation__source="share",
        targets__segmentation__share=0.25,
        targets__segmentation__share_draw="visit",
    )
    samples = dataset(devkit, cache, config)
    visits = [[samples[Draw(epoch, row)].weights for row in range(12)] for epoch in range(20)]
    again = [[samples[Draw(epoch, row)].weights for row in range(12)] for epoch in range(20)]
    assert visits == again
    gt, tutor = (
        np.array([[each[f"segmentation_{teacher}"] for each in visit] for visit in visits])
        for teacher in ("gt", "tutor")
    )
    assert np.array_equal(gt + tutor, np.ones_like(gt))
    assert tutor.mean() == pytest.approx(0.25, abs=0.09)  # three standard deviations
    assert (tutor.mean(axis=0) < 1).all()  # every image is sometimes taught by ground truth
