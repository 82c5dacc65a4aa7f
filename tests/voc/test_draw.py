from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcli.voc.classes import CLASSES
from kdcli.voc.colours import PALETTE
from kdcli.voc.devkit import CLASS_MASKS, OBJECT_MASKS
from kdcli.voc.instances import instance_truth
from kdcli.voc.labels import VOID
from kdcli.voc.scenes.dataset import draw_scene, make_sample
from kdcli.voc.view.gallery import draw_ground_truth, panel_scale
from kdcli.voc.view.overlay import overlay

GREY = np.full((120, 160, 3), 100, dtype=np.uint8)


def test_nothing_to_draw_leaves_the_photograph() -> None:
    picture = overlay(GREY, np.zeros((0, 4)), np.zeros(0, int), class_map=np.zeros((120, 160), int))
    np.testing.assert_array_equal(picture, GREY)
    np.testing.assert_array_equal(overlay(GREY), GREY)


def test_input_stays_as_it_is() -> None:
    image, boxes = GREY.copy(), np.array([[10.0, 20, 90, 80]])
    overlay(image, boxes, np.array([8]), np.array([0.5]), np.full((120, 160), 8))
    np.testing.assert_array_equal(image, GREY)


def test_mask_is_mixed_with_the_photograph() -> None:
    labels = np.zeros((120, 160), dtype=np.uint8)
    labels[:40], labels[40:80] = 8, VOID
    picture = overlay(GREY, class_map=labels, alpha=0.25)
    np.testing.assert_array_equal(
        picture[0, 0], np.rint(0.75 * 100 + 0.25 * PALETTE[8].astype(float))
    )
    assert (picture[60] > 100).all()
    np.testing.assert_array_equal(picture[80:], GREY[80:])


def test_box_is_drawn_on_its_outermost_pixels() -> None:
    picture = overlay(GREY, np.array([[30.0, 40, 90, 80]]))
    changed = (picture != GREY).any(axis=2)
    assert (picture[40:80, 30] == 255).all()
    assert (picture[40:80, 89] == 255).all()
    assert (picture[40, 30:90] == 255).all()
    assert (picture[79, 30:90] == 255).all()
    # One dark line outside for contrast, and the inside stays clear.
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (39, 80, 29, 90)
    assert not changed[45:75, 35:85].any()


def test_name_and_confidence_are_written() -> None:
    box, label = np.array([[30.0, 40, 90, 80]]), np.array([15])
    bare, named = overlay(GREY, box), overlay(GREY, box, label)
    rated, other = (overlay(GREY, box, label, np.array([value])) for value in (0.25, 0.75))
    plate = [(picture[:39] != GREY[:39]).any(axis=2).sum() for picture in (bare, named, rated)]
    assert plate[0] == 0
    assert 0 < plate[1] < plate[2]
    assert (rated != other).any()


@pytest.mark.parametrize(
    "box",
    [(-50, -50, 5, 5), (150, 110, 400, 300), (0, 0, 160, 120), (5, 5, 5, 5), (90, 80, 30, 40)],
)
def test_boxes_that_leave_the_picture_or_are_empty(box: tuple[float, ...]) -> None:
    picture = overlay(GREY, np.array([box], dtype=np.float32), np.array([16]), np.array([0.5]))
    assert picture.shape == GREY.shape
    assert (picture != GREY).any()


def test_every_class_shows_on_dark_and_bright_photographs() -> None:
    for label in range(1, len(CLASSES)):
        for level in (0, 255):
            image = np.full((60, 80, 3), level, dtype=np.uint8)
            picture = overlay(image, np.array([[10.0, 30, 70, 55]]), np.array([label]))
            # The frame or the dark line beside it stands out, whatever lies below.
            contrast = np.abs(picture[40, 9:11].astype(int) - level)
            assert contrast.max() > 150


def test_the_most_confident_box_is_on_top() -> None:
    boxes = np.array([[20.0, 20, 80, 80], [20.0, 20, 80, 80]])
    labels = np.array([8, 2])
    for scores in ([0.2, 0.9], [0.9, 0.2]):
        picture = overlay(GREY, boxes, labels, np.array(scores))
        top = labels[int(np.argmax(scores))]
        alone = overlay(GREY, boxes[:1], np.array([top]))
        np.testing.assert_array_equal(picture[50, 20], alone[50, 20])


def test_wrong_map_size() -> None:
    with pytest.raises(ValueError, match=r"size \(120, 160\), got \(160, 120\)"):
        overlay(GREY, class_map=np.zeros((160, 120), dtype=np.uint8))


def test_a_drawn_scene() -> None:
    scene = draw_scene(2, 3)
    truth = scene.annotation
    picture = overlay(scene.image, truth.boxes, truth.labels, class_map=scene.class_mask)
    assert picture.shape == scene.image.shape
    assert picture.dtype == np.uint8
    background = scene.class_mask == 0
    assert (picture != scene.image).any(axis=2)[~background].mean() > 0.95


def test_objects_are_outlined_in_colours_of_their_own() -> None:
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 10:30, 10:30] = masks[1, 60:90, 60:90] = True
    picture = overlay(GREY, masks=masks)
    plain = overlay(GREY, masks=iter(masks), class_map=np.zeros((120, 160), np.uint8))
    for mask in masks:
        rows, columns = np.nonzero(mask)
        edge = picture[rows[0], columns[0]]
        assert np.array_equal(plain[rows[0], columns[0]], edge)
        assert not np.array_equal(edge, GREY[0, 0])
        middle = rows[0] + 10, columns[0] + 10
        np.testing.assert_array_equal(plain[middle], GREY[0, 0])
        np.testing.assert_allclose(picture[middle], (edge + 100.0) / 2, atol=0.5)
    assert not np.array_equal(picture[10, 10], picture[60, 60])
    outside = ~masks.any(axis=0)
    np.testing.assert_array_equal(picture[outside], GREY[outside])
    with pytest.raises(ValueError, match=r"masks of the image's size \(120, 160\)"):
        overlay(GREY, masks=masks.transpose(0, 2, 1))


def test_ground_truth_outlines_the_objects_it_knows(tmp_path: Path) -> None:
    devkit = make_sample(tmp_path, images=2, seed=3)
    image_id = devkit.image_ids("Main/trainval")[0]
    image = devkit.read_image(image_id)
    truth = instance_truth(devkit, image_id)
    assert truth is not None
    known = truth.annotation
    assert truth.masks().any()

    def drawn(*, objects: bool = True) -> NDArray[np.uint8]:
        return draw_ground_truth(devkit, image_id, image, CLASS_MASKS, objects=objects)[0]

    outlined, plain = (
        overlay(
            image,
            known.boxes,
            known.labels,
            class_map=devkit.mask(image_id),
            masks=masks,
            scale=panel_scale(image),
        )
        for masks in (truth.masks(), ())
    )
    assert not np.array_equal(outlined, plain)
    assert np.array_equal(drawn(), outlined)
    assert np.array_equal(drawn(objects=False), plain)
    devkit.mask_path(image_id, OBJECT_MASKS).unlink()
    assert np.array_equal(drawn(), plain)
