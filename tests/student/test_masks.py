"""Masks kept in memory are the devkit's; what does not fit is read again; errors stay clear."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kdcli.common.errors import DevkitError
from kdcli.student.data.masks import Masks, Objects
from kdcli.voc.devkit import Devkit

FOLDER = "SegmentationClass"


@pytest.fixture
def own(devkit: Devkit, tmp_path: Path) -> Devkit:
    """A copy whose masks a test may take away."""
    return Devkit(Path(shutil.copytree(devkit.root, tmp_path / "voc")))


def test_every_visit_gives_the_devkits_mask(devkit: Devkit) -> None:
    masks = Masks(devkit, FOLDER)
    for _ in range(2):
        for image_id in devkit.image_ids("Segmentation/trainval"):
            read = masks.read(image_id, devkit.image_size(image_id))
            assert np.array_equal(read, devkit.mask(image_id))


def test_later_visits_do_not_read_the_file(own: Devkit) -> None:
    one, two = own.image_ids("Segmentation/trainval")[:2]
    masks, none_kept = Masks(own, FOLDER), Masks(own, FOLDER, limit=0)
    first = masks.read(one, own.image_size(one))
    assert none_kept.read(one, own.image_size(one)) is not None
    shutil.rmtree(own.root / FOLDER)
    assert np.array_equal(masks.read(one, own.image_size(one)), first)
    assert masks.read(two, own.image_size(two)) is None
    assert none_kept.read(one, own.image_size(one)) is None


def test_a_full_store_keeps_what_it_has(devkit: Devkit) -> None:
    masks = Masks(devkit, FOLDER, limit=1)
    for image_id in devkit.image_ids("Segmentation/trainval")[:3]:
        masks.read(image_id, devkit.image_size(image_id))
    assert len(masks._kept) == 1


def test_a_mask_of_another_picture_is_refused(devkit: Devkit) -> None:
    image_id = devkit.image_ids("Segmentation/trainval")[0]
    height, width = devkit.image_size(image_id)
    shown = Masks(devkit, FOLDER).read(image_id, (height, width))
    assert shown is not None
    assert shown.shape == (height, width)
    with pytest.raises(DevkitError, match="belongs to another picture"):
        Masks(devkit, FOLDER).read(image_id, (height + 1, width))


def test_objects_are_kept_as_masks_are(own: Devkit) -> None:
    objects = Objects(own, difficult=True)
    ids = own.image_ids("Segmentation/trainval")
    first = {image_id: objects.read(image_id) for image_id in ids}
    shutil.rmtree(own.root / "SegmentationObject")
    for image_id, before in first.items():
        again = objects.read(image_id)
        assert before is not None
        assert again is not None
        np.testing.assert_array_equal(again.rows, before.rows)
        np.testing.assert_array_equal(again.boxes, before.boxes)
        np.testing.assert_array_equal(again.numbers, before.numbers)
        assert len(before.boxes) == len(before.numbers) > 0
    assert Objects(own, difficult=True).read(ids[0]) is None


def test_difficult_objects_are_learned_if_asked(devkit: Devkit) -> None:
    every, plain = Objects(devkit, difficult=True), Objects(devkit, difficult=False)
    left_out = 0
    for image_id in devkit.image_ids("Segmentation/trainval"):
        annotation, all_of_them = devkit.annotation(image_id), every.read(image_id)
        some = plain.read(image_id)
        assert annotation is not None
        assert all_of_them is not None
        assert some is not None
        np.testing.assert_array_equal(some.boxes, annotation.boxes[~annotation.difficult])
        left_out += len(all_of_them.boxes) - len(some.boxes)
    assert left_out > 0
