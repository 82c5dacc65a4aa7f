"""How far a cache is from its tutors: nothing right away, what was changed after a change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcli.cache.format.record import InstanceMasks, TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError, TutorError
from kdcli.common.versions import environment
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.quality.compare import (
    ALIKE,
    OTHER_MACHINE,
    OTHER_MACHINE_16_BIT,
    Difference,
    compare_with_tutors,
    difference,
    environment_differences,
    tolerance_for,
)
from kdcli.tutor_gen.registry import load_tutors
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.tutors.device import device_environment
from kdcli.tutor_gen.tutors.kind import Named
from kdcli.voc.devkit import Devkit

FLOOR = 0.001


def output() -> TutorOutput:
    """Three boxes and a map of two label vectors beside nothing."""
    index_map = np.zeros((4, 5), dtype=np.uint8)
    index_map[1:3, 1] = 1
    index_map[3] = 2
    palette = np.zeros((3, 21), dtype=np.float32)
    palette[1, 7], palette[2, 9] = 0.5, 0.25
    masks = np.arange(784, dtype=np.uint8).reshape(1, 28, 28)
    boxes = np.array([[0, 0, 5, 4], [1, 1, 3, 3], [0, 0, 2, 2]], dtype=np.float32)
    labels = np.array([7, 7, 9], dtype=np.uint8)
    scores = np.array([0.75, 0.5, 0.25], dtype=np.float32)
    kept = InstanceMasks(boxes[:1], labels[:1], scores[:1], masks)
    return TutorOutput("one", boxes, labels, scores, index_map, palette, kept)


def test_equal_outputs_do_not_differ() -> None:
    found = difference(output(), output(), FLOOR)
    assert found == Difference(images=1, boxes=3, identical_boxes=3, pixels=20, equal_pixels=20)
    assert found.within(ALIKE)


def test_one_step_of_rounding_is_no_difference() -> None:
    again = output()
    again.palette[1, 7] += 1 / 32
    found = difference(output(), again, FLOOR, rounding_step=1 / 32)
    assert (found.other_vector_pixels, found.equal_pixels) == (0, 18)
    assert found.within(ALIKE)
    again.palette[1, 7] += 1 / 32
    found = difference(output(), again, FLOOR, rounding_step=1 / 32)
    assert (found.other_vector_pixels, found.other_class_pixels) == (2, 0)
    assert not found.within(ALIKE)


def test_what_was_changed_is_found() -> None:
    again = output()
    again.boxes[1, 2] += 0.25
    again.scores[2] -= 0.125
    again.index_map[0, 0] = 1
    found = difference(output(), again, FLOOR)
    assert found == Difference(
        images=1, boxes=3, identical_boxes=1, coordinate=0.25, confidence=0.125,
        pixels=20, equal_pixels=19, other_class_pixels=1, other_vector_pixels=1,
    )  # fmt: skip
    assert not found.within(OTHER_MACHINE)
    assert not Difference(coordinate=0.25).within(OTHER_MACHINE)
    assert not Difference(confidence=0.25).within(OTHER_MACHINE)
    assert not Difference(mask=0.25).within(OTHER_MACHINE)
    assert not Difference(boxes=9, unmatched_boxes=1).within(OTHER_MACHINE)
    assert not Difference(pixels=9, other_class_pixels=1).within(OTHER_MACHINE)
    assert not Difference(pixels=9, other_vector_pixels=1).within(OTHER_MACHINE)
    assert Difference(coordinate=0.0009, confidence=0.0009).within(ALIKE)


def test_what_another_device_does_to_the_last_bits_is_no_difference() -> None:
    """The largest differences seen between a CPU and a GPU that rounds convolutions to TF32."""
    again = output()
    again.boxes[1, 2] += 0.036
    again.scores[2] -= 7.5e-4
    again.palette[1, 7] += 7.5e-4
    found = difference(output(), again, FLOOR, tolerance=OTHER_MACHINE)
    assert found.equal_pixels == 18
    assert found.within(OTHER_MACHINE)
    assert not found.within(ALIKE)
    assert found.plus(found).within(OTHER_MACHINE)


def test_the_tolerance_follows_from_what_is_recorded(tmp_path: Path, devkit: Devkit) -> None:
    here = {"device": "cpu", "torch": "2.14", "torchvision": "0.29", "detectron2": "0.6"}
    single, half = (
        load_tutors(
            generation_config(
                detection__tutor="sample", segmentation__tutor="none", inference__amp=amp
            )
        )
        for amp in ("none", "fp16")
    )
    assert environment_differences([here, here | {"numpy": "2.1"}], here) == []
    assert tolerance_for(half, []) is tolerance_for(single, []) is ALIKE
    there = here | {"device": "NVIDIA H100", "tf32": "off"}
    lines = environment_differences([here], there)
    assert lines == [
        "device: cpu in the store, NVIDIA H100 now",
        "tf32: not recorded in the store, off now",
    ]
    assert tolerance_for(single, lines) is OTHER_MACHINE
    assert tolerance_for(half, lines) is OTHER_MACHINE_16_BIT
    both = environment_differences([here, there], there)
    assert both[0] == "device: cpu / NVIDIA H100 in the store, NVIDIA H100 now"
    out = tmp_path / "c.zarr"
    generate(
        devkit,
        devkit.image_ids("Main/train")[:1],
        load_tutors(generation_config(detection__tutor="sample", segmentation__tutor="none")),
        out,
    )
    (recorded,) = TutorCache.open(out).provenance["environments"]
    assert recorded["device"] == "cpu"
    assert environment_differences([recorded], environment() | device_environment("cpu")) == []


def test_the_order_of_boxes_and_codes_means_nothing() -> None:
    one = output()
    turned = replace(
        one,
        boxes=one.boxes[::-1],
        labels=one.labels[::-1],
        scores=one.scores[::-1],
        index_map=np.array([0, 2, 1], dtype=np.uint8)[one.index_map],
        palette=one.palette[[0, 2, 1]],
    )
    expected = Difference(images=1, boxes=3, identical_boxes=3, pixels=20, equal_pixels=20)
    assert difference(one, turned, FLOOR) == expected


def test_counterparts_are_the_boxes_that_overlap_most() -> None:
    """Not the first of the class: the two of class 7 lie within each other."""
    one = output()
    shifted = replace(one, boxes=one.boxes + np.array([0.1, 0, 0.1, 0], dtype=np.float32))
    found = difference(one, shifted, FLOOR)
    assert found.coordinate == pytest.approx(0.1)
    assert found.confidence == found.unmatched_boxes == 0
    elsewhere = replace(one, boxes=one.boxes + np.float32(2))
    assert difference(one, elsewhere, FLOOR).unmatched_boxes == 6


def test_boxes_that_only_one_side_has_count_if_they_are_sure_enough() -> None:
    one = output()
    fewer = replace(one, boxes=one.boxes[1:], labels=one.labels[1:], scores=one.scores[1:])
    for first, second in ((one, fewer), (fewer, one)):
        found = difference(first, second, FLOOR)
        assert found.unmatched_boxes == 1
        assert not found.within(OTHER_MACHINE)
        # On the floor's edge a box may fall to either side.
        assert difference(first, second, 0.7495).unmatched_boxes == 0
    none = replace(one, boxes=one.boxes[:0], labels=one.labels[:0], scores=one.boxes[:0, 0])
    assert difference(one, none, FLOOR).unmatched_boxes == 3
    assert difference(none, none, FLOOR).unmatched_boxes == 0


def test_a_step_of_quantisation_is_no_difference_of_masks() -> None:
    one = output()
    assert one.instances is not None
    for steps, expected in ((1, 0), (3, 2 / 255)):
        masks = one.instances.masks.copy()
        masks[0, 0, 0] += steps
        again = replace(one, instances=replace(one.instances, masks=masks))
        assert difference(one, again, FLOOR).mask == pytest.approx(expected)
    other = replace(one, instances=replace(one.instances, labels=one.labels[2:]))
    assert difference(one, other, FLOOR).mask == 1


def made(out: Path, devkit: Devkit, **changed: Any) -> TutorCache:
    tutors = load_tutors(
        generation_config(
            detection__tutor="sample",
            segmentation__tutor="sample",
            inference__detections_per_image=30,
            inference__min_size=130,
            detection__score_threshold=0.002,
            segmentation__score_threshold=0.1,
            **changed,
        )
    )
    ids = devkit.image_ids("Main/train")
    generate(devkit, ids, tutors, out)
    return TutorCache.open(out)


@pytest.mark.parametrize("keep_masks", [False, True])
def test_the_tutors_come_back_from_the_provenance(
    tmp_path: Path, devkit: Devkit, keep_masks: bool
) -> None:
    changed = {"segmentation__keep_masks": True} if keep_masks else {}
    cache = made(tmp_path / "c.zarr", devkit, **changed)
    pair = load_again(cache)
    assert pair.settings == cache.settings
    seen: list[Any] = []

    def progress(items: Any, total: int, label: str) -> Any:
        seen.extend(items)
        return items

    found = compare_with_tutors(cache, pair, devkit, 3, progress)
    assert seen == ["scene_0", "scene_3", "scene_6"]
    assert found.images == 3
    assert found.boxes == found.identical_boxes > 10
    assert found.pixels == found.equal_pixels > 10_000
    assert found.within(ALIKE)
    assert compare_with_tutors(cache, pair, devkit, 100).images == 7


def test_other_tutors_and_photographs_are_refused(tmp_path: Path, devkit: Devkit) -> None:
    cache = made(tmp_path / "c.zarr", devkit)
    with pytest.raises(TutorError, match=r"(?s)other tutors than .*detection\.weights: \"detectio"):
        load_again(cache, Named("sample", "random:3"))
    pair = load_again(cache, Named("sample"), Named("sample"))
    path = devkit.image_path(cache.image_ids[0])
    path.write_bytes(devkit.image_path(cache.image_ids[1]).read_bytes())
    with pytest.raises(CacheError, match=r"scene_0: the image file changed|scene_0: \d+ x \d+"):
        compare_with_tutors(cache, pair, devkit, 2)


def test_models_of_the_zoo_come_back_by_name_and_files_have_to_be_named(
    tmp_path: Path, devkit: Devkit
) -> None:
    ids = devkit.image_ids("Main/train")[:1]
    weights = SAMPLE / "segmentation.pth"
    config = tmp_path / "mine.yaml"
    config.write_bytes((SAMPLE / "segmentation.yaml").read_bytes())
    Path(f"{config}.toml").write_bytes((SAMPLE / "segmentation.yaml.toml").read_bytes())
    model = {"tutor": str(config), "weights": str(weights)}
    both = load_tutors(generation_config(detection=model, segmentation=model))
    generate(devkit, ids, both, tmp_path / "mine.zarr")
    cache = TutorCache.open(tmp_path / "mine.zarr")
    with pytest.raises(TutorError, match=r"is the file mine\.yaml, .* --segmentation-tutor"):
        load_again(cache)
    pair = load_again(cache, Named(str(config), weights), Named(str(config), weights))
    assert pair.detection is pair.segmentation
    assert compare_with_tutors(cache, pair, devkit, 1).identical_boxes > 0
    zoo = load_tutors(
        generation_config(
            detection__tutor="faster_rcnn_R_50_FPN_1x",
            segmentation__tutor="none",
            detection__weights="random:4",
            inference__min_size=64,
        )
    )
    generate(devkit, ids, zoo, tmp_path / "zoo.zarr")
    cache = TutorCache.open(tmp_path / "zoo.zarr")
    assert compare_with_tutors(cache, load_again(cache), devkit, 1).within(ALIKE)
