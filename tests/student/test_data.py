"""Samples from a real devkit and cache: aligned, repeatable, and only what is to be learned."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdcli.cache.reader import TutorCache
from kdcli.student.config.schema import AugmentationConfig, RunConfig
from kdcli.student.data.batch import collate
from kdcli.student.data.dataset import Draw, Schedule, StudentDataset, make_loader
from kdcli.student.data.plan import make_plan
from kdcli.student.data.tables import PADDING
from kdcli.student.data.targets import ImageTargets
from kdcli.student.tasks.segmentation import compact
from kdcli.voc.devkit import Devkit

Small = Callable[..., RunConfig]
STILL = AugmentationConfig(
    zoom_out_probability=0.0, crop_area=(1.0, 1.0), crop_tries=0, flip_probability=0.0
)
"""Shows the whole image, unmirrored."""


def dataset(devkit: Devkit, cache: TutorCache | None, config: RunConfig) -> StudentDataset:
    plan = make_plan(config, devkit, cache)
    return StudentDataset(devkit, cache, plan.learning, config, plan.mask_folder)


def both(small: Small) -> RunConfig:
    return small(
        targets__detection__source="combination", targets__segmentation__source="combination"
    )


def test_a_still_sample_is_the_whole_image_with_all_labels(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = replace(both(small), augmentation=STILL)
    sample = dataset(devkit, cache, config)[Draw(0, 3)]
    annotation = devkit.annotation(sample.image_id)
    assert annotation is not None
    scale = np.array([annotation.width, annotation.height] * 2)
    # Up to a pixel of an odd side is cut off where the photograph is decoded at half its size.
    assert sample.parts["detection"].gt.boxes * scale == pytest.approx(annotation.boxes, abs=1.001)
    assert np.array_equal(sample.parts["detection"].gt.labels, annotation.labels)
    # The ghost of confidence .0005 is below the threshold.
    assert np.array_equal(sample.parts["detection"].tutor.labels, annotation.labels)
    assert sample.parts["detection"].tutor.scores == pytest.approx(
        np.full(len(annotation.labels), 0.9)
    )
    assert sample.image.shape == (64, 64, 3)
    assert sample.parts["segmentation"].mask.shape == (config.model.finest_side,) * 2


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("epoch", range(3))
def test_ground_truth_and_tutor_stay_aligned(
    devkit: Devkit, cache: TutorCache, small: Small, row: int, epoch: int
) -> None:
    """The simulated tutors say the ground truth: after any drawn transform they still must."""
    sample = dataset(devkit, cache, both(small))[Draw(epoch, row)]
    assert np.array_equal(sample.parts["detection"].gt.boxes, sample.parts["detection"].tutor.boxes)
    said = (
        sample.parts["segmentation"].palette[sample.parts["segmentation"].index_map].argmax(axis=-1)
    )
    known = sample.parts["segmentation"].mask != 255
    assert np.array_equal(said[known], sample.parts["segmentation"].mask[known])
    assert not known[sample.parts["segmentation"].index_map == PADDING].any()


def test_zooming_out_pads_label_vectors_where_it_pads_masks(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    data = dataset(devkit, cache, both(small))
    samples = [data[Draw(epoch, row)] for epoch in range(6) for row in range(4)]
    padded = [
        sample for sample in samples if (sample.parts["segmentation"].index_map == PADDING).any()
    ]
    assert 4 < len(padded) < 20
    for sample in padded:
        assert (
            sample.parts["segmentation"].mask[sample.parts["segmentation"].index_map == PADDING]
            == 255
        ).all()


def test_a_draw_repeats_itself_and_differs_by_epoch_image_and_seed(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = both(small)
    data = dataset(devkit, cache, config)
    first, again = data[Draw(2, 1)], data[Draw(2, 1)]
    for name in ("image", "jitter"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    for name in ("mask", "index_map"):
        one, other = (getattr(each.parts["segmentation"], name) for each in (first, again))
        assert np.array_equal(one, other)
    others = [
        data[Draw(3, 1)],
        data[Draw(2, 0)],
        dataset(devkit, cache, replace(config, seed=2))[Draw(2, 1)],
    ]
    assert not any(np.array_equal(first.jitter, other.jitter) for other in others)


def test_a_batch_is_its_samples_whether_asked_for_at_once_or_one_by_one(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    data = dataset(devkit, cache, both(small))
    draws = [Draw(1, 3), Draw(0, 3), Draw(2, 0)]
    for together, alone in zip(data.__getitems__(draws), map(data.__getitem__, draws), strict=True):
        assert together.image_id == alone.image_id
        assert together.weights == alone.weights
        for name in ("image", "jitter"):
            assert np.array_equal(getattr(together, name), getattr(alone, name))
        for name in ("mask", "index_map", "palette"):
            one, other = (getattr(x.parts["segmentation"], name) for x in (together, alone))
            assert np.array_equal(one, other)
        assert np.array_equal(
            together.parts["detection"].gt.boxes, alone.parts["detection"].gt.boxes
        )
        assert np.array_equal(
            together.parts["detection"].tutor.scores, alone.parts["detection"].tutor.scores
        )


def test_images_are_laid_out_channels_last(devkit: Devkit, cache: TutorCache, small: Small) -> None:
    """Else stacking them takes a multiple of the time."""
    data = dataset(devkit, cache, both(small))
    samples = data.__getitems__([Draw(epoch, 0) for epoch in range(8)])
    assert all(sample.image.flags.c_contiguous for sample in samples)
    assert collate(samples).images.is_contiguous(memory_format=torch.channels_last)


def test_what_is_not_learned_is_not_read(devkit: Devkit, cache: TutorCache, small: Small) -> None:
    data = StudentDataset(
        devkit,
        None,
        [ImageTargets(devkit.image_ids("Segmentation/train")[0], {"segmentation_gt": 1.0})],
        small(),
        "SegmentationClass",
    )
    sample = data[Draw(0, 0)]
    assert (
        len(sample.parts["detection"].gt.labels) == len(sample.parts["detection"].tutor.labels) == 0
    )
    assert np.array_equal(sample.parts["segmentation"].palette, np.zeros((1, 21)))
    assert np.any(sample.parts["segmentation"].mask != 255)


def test_without_confidence_weighting_all_kept_boxes_count_fully(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    config = small(
        targets__detection__source="tutor",
        targets__detection__threshold=0.0,
        targets__detection__confidence_weighting=False,
    )
    sample = dataset(devkit, cache, replace(config, augmentation=STILL))[Draw(0, 0)]
    annotation = devkit.annotation(sample.image_id)
    assert annotation is not None
    assert (
        len(sample.parts["detection"].tutor.labels) == len(annotation.labels) + 1
    )  # the ghost too
    assert np.all(sample.parts["detection"].tutor.scores == 1)


def test_difficult_objects_can_be_left_out(devkit: Devkit, small: Small) -> None:
    image_id = next(
        name
        for name in devkit.image_ids("Segmentation/trainval")
        if (annotation := devkit.annotation(name)) is not None and annotation.difficult.any()
    )
    annotation = devkit.annotation(image_id)
    assert annotation is not None
    counts = []
    for difficult in (True, False):
        config = replace(small(data__difficult=difficult), augmentation=STILL)
        rows = [ImageTargets(image_id, {"detection_gt": 1.0})]
        sample = StudentDataset(devkit, None, rows, config, "")[Draw(0, 0)]
        counts.append(len(sample.parts["detection"].gt.labels))
    assert counts == [len(annotation.labels), int((~annotation.difficult).sum())]


def test_every_epoch_shows_every_image_once_in_another_order() -> None:
    draws = [draw for step in Schedule(7, 3, seed=1, start=0, steps=14) for draw in step]
    for epoch in range(6):
        rows = [draw.row for draw in draws if draw.epoch == epoch]
        assert sorted(rows) == list(range(7))
        assert rows == [draw.row for draw in draws[7 * epoch : 7 * (epoch + 1)]]
    assert len({tuple(d.row for d in draws[7 * e : 7 * e + 7]) for e in range(6)}) > 1


@pytest.mark.parametrize("start", [0, 1, 5, 13, 14])
def test_a_schedule_goes_on_at_any_step(start: int) -> None:
    whole = list(Schedule(7, 3, seed=1, start=0, steps=14))
    rest = Schedule(7, 3, seed=1, start=start, steps=14)
    assert list(rest) == whole[start:]
    assert len(rest) == 14 - start


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    (batch,) = Schedule(2, 5, seed=1, start=0, steps=1)
    assert [draw.epoch for draw in batch] == [0, 0, 1, 1, 2]


def test_workers_deliver_the_same_batches(devkit: Devkit, cache: TutorCache, small: Small) -> None:
    batches = []
    for workers in (0, 2):
        config = replace(both(small), runtime=replace(small().runtime, workers=workers))
        loader = make_loader(dataset(devkit, cache, config), 0, torch.device("cpu"))
        batches.append(list(loader))
    assert len(batches[0]) == 6
    for here, there in zip(*batches, strict=True):
        assert here.image_ids == there.image_ids
        assert torch.equal(here.images, there.images)
        assert torch.equal(*(x.parts["segmentation"].index_maps for x in (here, there)))
        assert torch.equal(
            here.parts["detection"].tutor.boxes, there.parts["detection"].tutor.boxes
        )


def test_a_data_set_can_be_sent_to_a_spawned_worker(
    devkit: Devkit, cache: TutorCache, small: Small
) -> None:
    data = dataset(devkit, cache, both(small))
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy[Draw(1, 1)].image, data[Draw(1, 1)].image)


def test_palettes_of_soft_vectors_hold_only_what_the_crop_shows() -> None:
    rng = np.random.default_rng(2)
    palette = rng.random((3000, 21)).astype(np.float32)
    palette[0] = 0
    index_map = rng.integers(1, 3000, (38, 38)).astype(np.int32)
    index_map[:, 30:] = PADDING
    compacted, shown = compact(index_map, palette)
    assert np.array_equal(compacted == PADDING, index_map == PADDING)
    assert np.array_equal(shown[compacted[:, :30]], palette[index_map[:, :30]])
    assert not shown[0].any()  # what padding is looked up as
    assert len(shown) == len(np.unique(index_map)) < 1444
    small = palette[:8]
    same, kept = compact(index_map % 8, small)
    assert kept is small
    assert np.array_equal(same, index_map % 8)
