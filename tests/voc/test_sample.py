from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.voc.classes import CLASS_IDS
from kdcli.voc.colours import PALETTE
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import VOID
from kdcli.voc.scenes.dataset import Scene, draw_scene, make_sample
from kdcli.voc.scenes.shapes import KINDS


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(11, index) for index in range(150)]


def test_seed_and_index_alone_decide() -> None:
    first, again, other, next_one = (draw_scene(*key) for key in ((3, 7), (3, 7), (4, 7), (3, 8)))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.object_mask, again.object_mask)
    for different in (other, next_one):
        assert different.annotation.image_id != first.annotation.image_id
        assert different.image.shape != first.image.shape or (different.image != first.image).any()


def test_boxes_are_those_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        annotation = scene.annotation
        assert sorted(set(np.unique(scene.visible)) - {0}) == list(
            range(1, len(annotation.labels) + 1)
        )
        for number, box in enumerate(annotation.boxes, start=1):
            rows, columns = np.nonzero(scene.visible == number)
            expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert tuple(box.tolist()) == expected


def test_masks_agree_and_void_lies_along_borders_only(scenes: list[Scene]) -> None:
    for scene in scenes:
        classes = np.concatenate([[0], scene.annotation.labels])[scene.visible]
        void = scene.class_mask == VOID
        np.testing.assert_array_equal(scene.object_mask == VOID, void)
        np.testing.assert_array_equal(scene.class_mask[~void], classes[~void])
        np.testing.assert_array_equal(scene.object_mask[~void], scene.visible[~void])
        # Void is where a neighbour belongs to someone else: one pixel on either side.
        for row, column in np.argwhere(void)[::97]:
            near = scene.visible[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            assert len(np.unique(near)) > 1
        across = scene.visible[:, 1:] != scene.visible[:, :-1]
        assert void[:, 1:][across].all()
        assert void[:, :-1][across].all()


def test_every_object_keeps_pixels_inside_its_border(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 1 <= len(scene.annotation.labels) <= 5
        counts = np.bincount(scene.object_mask.ravel(), minlength=256)
        assert (counts[1 : len(scene.annotation.labels) + 1] >= 15).all()


def test_shapes_types_and_sizes(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.annotation.height, scene.annotation.width
        assert 160 <= max(height, width) <= 250
        assert scene.image.shape == (height, width, 3)
        assert scene.class_mask.shape == scene.object_mask.shape == (height, width)
        assert scene.image.dtype == scene.class_mask.dtype == scene.object_mask.dtype == np.uint8
        assert scene.annotation.boxes.dtype == np.float32
        assert scene.annotation.labels.dtype == np.int64


def test_truncated_objects_touch_the_border(scenes: list[Scene]) -> None:
    for scene in scenes:
        annotation = scene.annotation
        touching = (annotation.boxes[:, :2] == 0).any(axis=1) | (
            annotation.boxes[:, 2:] == (annotation.width, annotation.height)
        ).any(axis=1)
        # An object cut by the border may be covered just there by another one.
        assert (annotation.truncated & ~touching).sum() <= 1
    truncated = np.concatenate([scene.annotation.truncated for scene in scenes])
    assert 0.1 < truncated.mean() < 0.35


def test_variety(scenes: list[Scene]) -> None:
    labels = np.concatenate([scene.annotation.labels for scene in scenes])
    counts = np.bincount(labels, minlength=21)
    assert set(np.flatnonzero(counts)) == {CLASS_IDS[name] for name in KINDS}
    assert counts[counts > 0].min() > 0.5 * counts[counts > 0].mean()
    assert {len(scene.annotation.labels) for scene in scenes} == {1, 2, 3, 4, 5}
    difficult = np.concatenate([scene.annotation.difficult for scene in scenes])
    assert 0.01 < difficult.mean() < 0.15
    assert len({scene.image.shape for scene in scenes}) > 50


def test_colour_does_not_tell_the_class(scenes: list[Scene]) -> None:
    """The mean colours of one class's objects spread as far as those of all objects."""
    means: dict[int, list[Any]] = {}
    for scene in scenes:
        for number, label in enumerate(scene.annotation.labels.tolist(), start=1):
            means.setdefault(label, []).append(scene.image[scene.visible == number].mean(axis=0))
    overall = np.concatenate(list(means.values())).std(axis=0).mean()
    for colours in means.values():
        assert np.std(colours, axis=0).mean() > 0.6 * overall


def test_a_devkit_reads_back_as_it_was_drawn(drawn: Devkit) -> None:
    for index, image_id in enumerate(drawn.image_ids("Segmentation/trainval")):
        scene, annotation = draw_scene(5, index), drawn.annotation(image_id)
        assert annotation is not None
        assert annotation.image_id == scene.annotation.image_id == image_id
        for name in ("boxes", "labels", "difficult", "truncated"):
            np.testing.assert_array_equal(
                getattr(annotation, name), getattr(scene.annotation, name)
            )
        np.testing.assert_array_equal(drawn.mask(image_id), scene.class_mask)
        np.testing.assert_array_equal(drawn.object_mask(image_id), scene.object_mask)
        # JPEG is the one lossy step; grain costs it most.
        difference = np.abs(drawn.read_image(image_id).astype(int) - scene.image)
        assert difference.mean() < 8


def test_files_look_like_the_devkits(drawn: Devkit) -> None:
    image_id = drawn.image_ids("Main/train")[0]
    for folder in ("SegmentationClass", "SegmentationObject"):
        with Image.open(drawn.root / folder / f"{image_id}.png") as picture:
            assert picture.mode == "P"
            palette = picture.getpalette()
        assert palette == PALETTE.ravel().tolist()
    text = (drawn.root / "Annotations" / f"{image_id}.xml").read_text()
    assert text.startswith(f"<annotation>\n\t<folder>voc</folder>\n\t<filename>{image_id}.jpg<")


def test_lists(drawn: Devkit) -> None:
    train, val = (set(drawn.image_ids(f"Segmentation/{split}")) for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 4)
    assert not train & val
    assert train | val == set(drawn.image_ids("Segmentation/trainval"))
    for split in ("train", "val", "trainval"):
        assert drawn.image_ids(f"Main/{split}") == drawn.image_ids(f"Segmentation/{split}")


def test_fewer_images_are_a_part_of_more(drawn: Devkit, tmp_path: Path) -> None:
    small = make_sample(tmp_path / "small", images=4, seed=5)
    assert set(small.image_ids("Main/train")) < set(drawn.image_ids("Main/train"))
    for image_id in small.image_ids("Main/trainval"):
        for path in (small.image_path, drawn.image_path):
            assert path(image_id).is_file()
        assert small.image_path(image_id).read_bytes() == drawn.image_path(image_id).read_bytes()


def test_what_lies_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(DevkitError, match="holds something already"):
        make_sample(tmp_path, images=2)
    with pytest.raises(DevkitError, match="got the file"):
        make_sample(tmp_path / "photo.jpg", images=2)
    with pytest.raises(DevkitError, match="Cannot make the folder"):
        make_sample(tmp_path / "photo.jpg" / "below", images=2)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(("images", "seed"), [(1, 1), (0, 1), (2, -1)])
def test_impossible_numbers(tmp_path: Path, images: int, seed: int) -> None:
    with pytest.raises(DevkitError, match=r"Expected .*, got"):
        make_sample(tmp_path / "new", images=images, seed=seed)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("existed", [True, False])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    out = tmp_path / "out"
    if existed:
        out.mkdir()

    def interrupted(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
        assert (total, label) == (6, "scenes")
        for item in items:
            if item == 3:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        make_sample(out, images=6, seed=1, progress=interrupted)
    assert out.exists() == existed
    make_sample(out, images=2, seed=1)


def test_a_killed_run_leaves_no_lists(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        f"from kdcli.voc.scenes.dataset import make_sample; make_sample({str(out)!r}, images=5000)"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        deadline = time.monotonic() + 30
        while not list(out.glob("JPEGImages/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert list(out.glob("JPEGImages/*.jpg"))
    with pytest.raises(DevkitError, match="holds no lists"):
        Devkit.open(out).image_ids("Main/train")
    with pytest.raises(DevkitError, match="left over from an interrupted make-sample"):
        make_sample(out)


def test_only_a_share_of_the_training_scenes_has_masks(tmp_path: Path) -> None:
    """As in VOC, where Main/train is four times Segmentation/train; the scenes stay the same."""
    part = make_sample(tmp_path / "part", images=30, seed=3, mask_share=0.25)
    full = make_sample(tmp_path / "full", images=30, seed=3)
    for name in ("Main/train", "Main/val", "Main/trainval", "Segmentation/val"):
        assert part.image_ids(name) == full.image_ids(name)
    masked = part.image_ids("Segmentation/train")
    assert len(masked) == 5
    assert set(masked) < set(part.image_ids("Main/train"))
    assert part.image_ids("Segmentation/trainval") == tuple(
        i for i in part.image_ids("Main/trainval") if i in {*masked, *part.image_ids("Main/val")}
    )
    known = part.availability(part.image_ids("Main/trainval"))
    assert known.masks == set(part.image_ids("Segmentation/trainval"))
    assert known.boxes == set(part.image_ids("Main/trainval"))
    for image_id in part.image_ids("Main/trainval"):
        assert (part.object_mask(image_id) is not None) == (image_id in known.masks)
        xml = (part.root / "Annotations" / f"{image_id}.xml").read_text()
        assert f"<segmented>{int(image_id in known.masks)}</segmented>" in xml
        assert part.image_path(image_id).read_bytes() == full.image_path(image_id).read_bytes()


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_of_masks_out_of_range_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(DevkitError, match="share of masks"):
        make_sample(tmp_path / "voc", images=6, mask_share=share)
