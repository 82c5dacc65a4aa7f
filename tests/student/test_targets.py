"""Which image learns what from whom, against tables written by hand."""

from __future__ import annotations

import pytest

from kdcli.common.errors import ConfigError, StudentError
from kdcli.student.config.tasks import (
    TASK_NAMES,
    DetectionTargets,
    SegmentationTargets,
    Source,
    TargetsConfig,
)
from kdcli.student.data.assignment import assign_targets, counts, taught_by_tutor, to_csv

IDS = ("a", "b", "c", "d")
MANY = tuple(f"2008_{number:06d}" for number in range(1000))


def assign(
    config: TargetsConfig,
    ids: tuple[str, ...] = IDS,
    boxes: tuple[str, ...] | None = None,
    masks: tuple[str, ...] | None = None,
    seed: int = 1,
) -> list[tuple[float, ...]]:
    boxes, masks = (ids if given is None else given for given in (boxes, masks))
    return [
        tuple(row.weights.values())
        for row in assign_targets(ids, {"detection": boxes, "segmentation": masks}, config, seed)
    ]


def both(source: Source, **more: object) -> TargetsConfig:
    return TargetsConfig(
        detection=DetectionTargets(source=source, **more),  # type: ignore[arg-type]
        segmentation=SegmentationTargets(source=source, **more),  # type: ignore[arg-type]
    )


def test_ground_truth_alone() -> None:
    assert assign(both("gt")) == [(1, 0, 1, 0)] * 4


def test_tutors_alone_need_no_ground_truth() -> None:
    assert assign(both("tutor"), boxes=(), masks=()) == [(0, 1, 0, 1)] * 4


def test_fill_in_asks_the_tutor_where_ground_truth_lacks() -> None:
    """Det train of the thesis (table 17): all images have boxes, few have masks."""
    weights = assign(both("fill-in"), boxes=IDS, masks=("b",))
    assert weights == [(1, 0, 0, 1), (1, 0, 1, 0), (1, 0, 0, 1), (1, 0, 0, 1)]


def test_combination_gives_both_to_every_image() -> None:
    assert assign(both("combination")) == [(0.5, 0.5, 0.5, 0.5)] * 4
    weights = assign(both("combination", gt_weight=0.7, tutor_weight=0.1))
    assert weights == [(0.7, 0.1, 0.7, 0.1)] * 4


def test_each_task_has_its_own_source() -> None:
    config = TargetsConfig(segmentation=SegmentationTargets(source="tutor"))
    assert assign(config) == [(1, 0, 0, 1)] * 4


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_a_share_learns_from_the_tutor_and_the_others_from_ground_truth(share: float) -> None:
    weights = assign(both("share", share=share), ids=MANY)
    assert sum(row[1] for row in weights) == round(share * 1000)
    assert all(row[0] + row[1] == 1 and row[2] + row[3] == 1 for row in weights)


def test_the_share_is_a_function_of_seed_and_image_id() -> None:
    config = both("share", share=0.3)
    first, again, other = (assign(config, ids=MANY, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # The order of the list plays no part, and a larger share contains the smaller one.
    backwards = assign(config, ids=MANY[::-1])
    assert backwards == first[::-1]
    larger = assign(both("share", share=0.6), ids=MANY)
    assert all(more[1] >= less[1] for more, less in zip(larger, first, strict=True))
    # The two tasks draw their own images: 30 % of 30 % would be in both by chance.
    both_tutors = sum(row[1] == 1 and row[3] == 1 for row in first)
    assert 50 < both_tutors < 130


def test_only_a_share_of_the_images_keeps_its_ground_truth() -> None:
    config = TargetsConfig(
        gt_share=0.2,
        detection=DetectionTargets(source="fill-in"),
        segmentation=SegmentationTargets(source="gt"),
    )
    weights = assign(config, ids=MANY)
    assert sum(row[0] for row in weights) == 200
    assert sum(row[1] for row in weights) == 800
    # Withholding is no lack: with source gt those images just teach this task nothing.
    assert sum(row[2] for row in weights) == 200
    assert all(row[0] == row[2] for row in weights)


def test_a_task_can_keep_its_own_share() -> None:
    config = TargetsConfig(segmentation=SegmentationTargets(gt_share=0.1, source="fill-in"))
    weights = assign(config, ids=MANY)
    assert sum(row[0] for row in weights) == 1000
    assert sum(row[2] for row in weights) == 100


def test_missing_ground_truth_is_an_error_with_counts() -> None:
    with pytest.raises(StudentError, match=r"3 of the 4 training images .* segmentation") as info:
        assign(both("gt"), masks=("d",))
    assert "targets.segmentation.source=fill-in" in str(info.value)
    assert "a for one" in str(info.value)
    with pytest.raises(StudentError, match=r"1 of the 4 training images .* detection"):
        assign(both("combination"), boxes=("a", "b", "d"))


def test_missing_ground_truth_of_images_the_tutor_labels_is_none() -> None:
    config = both("share", share=1.0)
    assert assign(config, boxes=(), masks=()) == [(0, 1, 0, 1)] * 4


def test_skipping_leaves_images_without_ground_truth_out_of_the_task() -> None:
    weights = assign(both("gt", missing_gt="skip"), boxes=("a",), masks=())
    assert weights == [(1, 0, 0, 0), *[(0, 0, 0, 0)] * 3]


def test_a_run_without_any_target_is_refused() -> None:
    with pytest.raises(StudentError, match="None of the 4 training images has a target"):
        assign(both("gt", missing_gt="skip"), boxes=(), masks=())


def test_what_is_written_and_counted() -> None:
    config = TargetsConfig(
        segmentation=SegmentationTargets(source="combination", gt_weight=0.25, tutor_weight=0.75)
    )
    rows = assign_targets(("x", "y"), {task: {"x", "y"} for task in TASK_NAMES[:2]}, config, seed=1)
    assert to_csv(rows).splitlines() == [
        "image_id,detection_gt,detection_tutor,segmentation_gt,segmentation_tutor",
        "x,1,0,0.25,0.75",
        "y,1,0,0.25,0.75",
    ]
    assert taught_by_tutor(rows) == {"segmentation"}
    assert counts(rows) == {
        "detection_gt": 2,
        "detection_tutor": 0,
        "segmentation_gt": 2,
        "segmentation_tutor": 2,
        "nothing": 0,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 1.2},
        {"gt_share": -0.1},
        {"gt_weight": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Expected targets' "):
        DetectionTargets(**wrong)  # type: ignore[arg-type]
