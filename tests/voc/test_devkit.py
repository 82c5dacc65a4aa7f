from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.voc.devkit import Availability, Devkit, mask_folder
from kdcli.voc.images import write_mask

FIRST = "0005_000000"


def add_list(devkit: Devkit, text: str, name: str = "Main/odd") -> str:
    (devkit.root / "ImageSets" / f"{name}.txt").write_text(text, encoding="utf-8")
    return name


def replace_in_xml(devkit: Devkit, old: str, new: str) -> None:
    path = devkit.root / "Annotations" / f"{FIRST}.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


class TestOpen:
    @pytest.mark.parametrize("levels", [0, 1, 2])
    def test_folder_itself_or_up_to_two_levels_above(self, spoilable: Devkit, levels: int) -> None:
        path = [spoilable.root, *spoilable.root.parents][levels]
        assert Devkit.open(path).root == spoilable.root
        assert Devkit.open(str(path)).root == spoilable.root

    def test_three_levels_above_is_too_far(self, spoilable: Devkit) -> None:
        above = spoilable.root.parents[2]
        with pytest.raises(DevkitError, match="at most two levels below"):
            Devkit.open(above)

    def test_inside_the_devkit(self, spoilable: Devkit) -> None:
        with pytest.raises(DevkitError, match=f"lies inside one: use {spoilable.root}"):
            Devkit.open(spoilable.root / "JPEGImages")
        with pytest.raises(DevkitError, match=f"lies inside one: use {spoilable.root}"):
            Devkit.open(spoilable.root / "ImageSets" / "Main")

    def test_two_years(self, spoilable: Devkit) -> None:
        (spoilable.root.parent / "VOC2007" / "JPEGImages").mkdir(parents=True)
        with pytest.raises(DevkitError, match=r"got 2: name one of .*VOC2007, .*VOC2012"):
            Devkit.open(spoilable.root.parent)
        assert Devkit.open(spoilable.root).root == spoilable.root

    def test_a_link_beside_its_target_is_one_devkit(self, spoilable: Devkit) -> None:
        (spoilable.root.parent / "current").symlink_to(spoilable.root)
        assert Devkit.open(spoilable.root.parent).root.samefile(spoilable.root)

    def test_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "train2017").mkdir()
        (tmp_path / "notes.txt").touch()
        with pytest.raises(DevkitError, match=r"There lies notes\.txt, train2017\."):
            Devkit.open(tmp_path)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DevkitError, match="There lies nothing"):
            Devkit.open(tmp_path / "empty")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DevkitError, match="no such folder"):
            Devkit.open(tmp_path / "absent")


class TestLists:
    def test_names(self, drawn: Devkit) -> None:
        splits = ("train", "trainval", "val")
        expected = [f"{task}/{split}" for task in ("Main", "Segmentation") for split in splits]
        assert list(drawn.lists()) == expected

    def test_file_order_blank_lines_windows_ends_and_mark(self, spoilable: Devkit) -> None:
        name = add_list(spoilable, "\ufeff0005_000003\r\n\r\n 0005_000001 \r\n")
        assert spoilable.image_ids(name) == ("0005_000003", "0005_000001")

    def test_list_of_one_class_keeps_images_that_show_it(self, spoilable: Devkit) -> None:
        name = add_list(spoilable, "0005_000000  1\n0005_000001 -1\n0005_000002  0\n")
        assert spoilable.image_ids(name) == ("0005_000000", "0005_000002")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "got an empty list"),
            ("0005_000000\n0005_000001 1\n", "line 1: expected one image id a line"),
            ("0005_000000 1 2\n", "line 1"),
            ("0005_000000 yes\n", "got '0005_000000 yes'"),
            ("../secret\n", "expected an image id such as 2008_000008, got '../secret'"),
            ("a\\b\n", "an id is a file name without folder"),
            ("..\n", "got '..'"),
            ("0005_000000\n0005_000000\n", "more than once, first '0005_000000'"),
            ("0005_000000\nabsent_1\nabsent_2\n", "names 2 of 3 image(s) without a photograph"),
        ],
    )
    def test_bad_lists(self, spoilable: Devkit, text: str, message: str) -> None:
        name = add_list(spoilable, text)
        with pytest.raises(DevkitError) as caught:
            spoilable.image_ids(name)
        assert message in str(caught.value)
        assert "odd.txt" in str(caught.value)

    def test_missing_photograph_is_named(self, spoilable: Devkit) -> None:
        gone = spoilable.image_path("0005_000001")
        gone.unlink()
        with pytest.raises(DevkitError, match=f"1 of 12 .* first {gone}"):
            spoilable.image_ids("Segmentation/trainval")

    def test_not_text(self, spoilable: Devkit) -> None:
        (spoilable.root / "ImageSets" / "Main" / "odd.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(DevkitError, match="Cannot read the list"):
            spoilable.image_ids("Main/odd")

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
    def test_lists_that_windows_wrote(self, spoilable: Devkit, encoding: str) -> None:
        text = "0005_000001\r\n0005_000000\r\n"
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        path = spoilable.root / "ImageSets" / "Main" / "odd.txt"
        path.write_bytes((mark + text).encode(encoding))
        assert spoilable.image_ids("Main/odd") == ("0005_000001", "0005_000000")

    def test_a_list_in_another_encoding_says_what_to_do(self, spoilable: Devkit) -> None:
        path = spoilable.root / "ImageSets" / "Main" / "odd.txt"
        path.write_bytes("größe".encode("latin-1"))
        with pytest.raises(DevkitError, match=r"odd\.txt: .*save it as UTF-8"):
            spoilable.image_ids("Main/odd")

    def test_a_folder_is_no_list(self, spoilable: Devkit) -> None:
        (spoilable.root / "ImageSets" / "Main" / "odd.txt").mkdir()
        assert "Main/odd" not in spoilable.lists()

    def test_missing_list_says_which_there_are(self, drawn: Devkit) -> None:
        with pytest.raises(DevkitError, match=r"Lists: Main/train, Main/trainval"):
            drawn.image_ids("Layout/xyz")
        with pytest.raises(DevkitError, match=r"Did you mean Segmentation/train\?"):
            drawn.image_ids("Segmentation/trian")
        with pytest.raises(DevkitError, match=r"Did you mean Main/val\?"):
            drawn.image_ids("val")

    def test_list_name_cannot_leave_the_devkit(self, drawn: Devkit) -> None:
        with pytest.raises(DevkitError, match="does not exist"):
            drawn.image_ids("Main/../Main/train")

    def test_no_lists_at_all(self, spoilable: Devkit) -> None:
        shutil.rmtree(spoilable.root / "ImageSets")
        assert spoilable.lists() == ()
        with pytest.raises(DevkitError, match="holds no lists"):
            spoilable.image_ids("Main/train")


class TestEndings:
    """Files named .JPG or .jpeg, .XML, .PNG: found, and never two of one image."""

    @pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".Jpeg"])
    def test_photographs_of_other_endings(self, spoilable: Devkit, ending: str) -> None:
        before = spoilable.read_image(FIRST)
        usual = spoilable.image_path(FIRST)
        usual.rename(usual.with_suffix(ending))
        assert spoilable.image_path(FIRST).name == FIRST + ending
        assert FIRST in spoilable.image_ids("Segmentation/trainval")
        np.testing.assert_array_equal(spoilable.read_image(FIRST), before)
        assert pickle.loads(pickle.dumps(spoilable)).image_path(FIRST).is_file()

    def test_annotations_and_masks_of_upper_case(self, spoilable: Devkit) -> None:
        boxes, mask = spoilable.annotation(FIRST), spoilable.mask(FIRST)
        assert boxes is not None
        for folder in ("Annotations", "SegmentationClass"):
            (file,) = (spoilable.root / folder).glob(f"{FIRST}.*")
            file.rename(file.with_suffix(file.suffix.upper()))
        again = spoilable.annotation(FIRST)
        assert again is not None
        np.testing.assert_array_equal(again.boxes, boxes.boxes)
        np.testing.assert_array_equal(spoilable.mask(FIRST), mask)
        assert spoilable.availability([FIRST]) == Availability(
            frozenset([FIRST]), frozenset([FIRST]), frozenset([FIRST])
        )

    @pytest.mark.parametrize(
        ("folder", "usual", "other"),
        [("JPEGImages", ".jpg", ".JPG"), ("JPEGImages", ".jpg", ".jpeg"),
         ("Annotations", ".xml", ".XML"), ("SegmentationClass", ".png", ".PNG")],
    )  # fmt: skip
    def test_two_files_of_one_image(
        self, spoilable: Devkit, folder: str, usual: str, other: str
    ) -> None:
        ids = spoilable.image_ids("Segmentation/trainval")
        shutil.copy(
            spoilable.root / folder / (FIRST + usual), spoilable.root / folder / (FIRST + other)
        )
        both = " and ".join(sorted((FIRST + usual, FIRST + other)))
        one = {"JPEGImages": spoilable.image_path, "Annotations": spoilable.annotation}
        for look in (
            lambda: one.get(folder, spoilable.mask)(FIRST),
            lambda: spoilable.availability(spoilable.image_ids("Segmentation/trainval")),
        ):
            with pytest.raises(DevkitError, match=f"{folder} holds {both}"):
                look()
        assert spoilable.image_path(ids[1]).is_file()

    def test_a_file_that_comes_later_is_found(self, spoilable: Devkit) -> None:
        usual = spoilable.image_path(FIRST)
        os.utime(usual.parent, (1, 1))
        assert spoilable.image_path(FIRST) == usual
        usual.rename(usual.with_suffix(".JPG"))
        assert spoilable.image_path(FIRST) == usual.with_suffix(".JPG")


class TestImages:
    def test_size_from_header_equals_pixels(self, drawn: Devkit) -> None:
        for image_id in drawn.image_ids("Main/train"):
            image = drawn.read_image(image_id)
            assert image.dtype == np.uint8
            assert image.shape == (*drawn.image_size(image_id), 3)

    @pytest.mark.parametrize("image_id", ["", ".", "..", "../x", "a/b", "a\\b", "a\0b"])
    def test_ids_that_lead_elsewhere(self, drawn: Devkit, image_id: str) -> None:
        for look in (drawn.image_path, drawn.annotation, drawn.mask, drawn.has_boxes):
            with pytest.raises(DevkitError, match="expected an image id"):
                look(image_id)

    def test_zero_bytes(self, spoilable: Devkit) -> None:
        spoilable.image_path(FIRST).write_bytes(b"")
        for read in (spoilable.read_image, spoilable.image_size):
            with pytest.raises(DevkitError, match=rf"{FIRST}\.jpg is empty \(0 bytes\)"):
                read(FIRST)

    def test_cut_off(self, spoilable: Devkit) -> None:
        path = spoilable.image_path(FIRST)
        path.write_bytes(path.read_bytes()[:-900])
        with pytest.raises(DevkitError, match=rf"{FIRST}\.jpg cannot be read .*truncated"):
            spoilable.read_image(FIRST)

    def test_not_a_jpeg(self, spoilable: Devkit) -> None:
        path = spoilable.image_path(FIRST)
        path.write_text("<html>404</html>")
        with pytest.raises(DevkitError, match=rf"{FIRST}\.jpg is not a JPEG"):
            spoilable.read_image(FIRST)
        Image.new("RGB", (9, 9)).save(path, "PNG")
        with pytest.raises(DevkitError, match="is not a JPEG"):
            spoilable.image_size(FIRST)

    def test_missing(self, drawn: Devkit) -> None:
        with pytest.raises(DevkitError, match=r"absent\.jpg does not exist"):
            drawn.read_image("absent")

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_other_colour_spaces_become_rgb(self, spoilable: Devkit, mode: str) -> None:
        Image.new(mode, (30, 20), 0).save(spoilable.image_path(FIRST), "JPEG")
        image = spoilable.read_image(FIRST)
        assert image.shape == (20, 30, 3)
        # No light in grey is black; no ink in CMYK is white.
        assert image.mean() == pytest.approx(0 if mode == "L" else 255, abs=3)

    def test_orientation_is_ignored(self, spoilable: Devkit) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        Image.new("RGB", (30, 20)).save(spoilable.image_path(FIRST), "JPEG", exif=exif)
        assert spoilable.image_size(FIRST) == (20, 30)
        assert spoilable.read_image(FIRST).shape == (20, 30, 3)


class TestAnnotations:
    def test_none_without_xml(self, spoilable: Devkit) -> None:
        assert spoilable.annotation(FIRST) is not None
        (spoilable.root / "Annotations" / f"{FIRST}.xml").unlink()
        assert spoilable.annotation(FIRST) is None
        assert not spoilable.has_boxes(FIRST)

    def test_size_of_another_picture(self, spoilable: Devkit) -> None:
        height, width = spoilable.image_size(FIRST)
        replace_in_xml(spoilable, f"<width>{width}<", f"<width>{width + 7}<")
        message = rf"{FIRST}\.xml is for {width + 7} x {height} pixels, .* has {width} x {height}"
        with pytest.raises(DevkitError, match=message):
            spoilable.annotation(FIRST)

    def test_broken_xml(self, spoilable: Devkit) -> None:
        replace_in_xml(spoilable, "</annotation>", "")
        with pytest.raises(DevkitError, match=rf"{FIRST}\.xml is not well-formed"):
            spoilable.annotation(FIRST)


class TestMasks:
    def mask_path(self, devkit: Devkit) -> Path:
        return devkit.root / "SegmentationClass" / f"{FIRST}.png"

    def test_none_without_file_or_folder(self, spoilable: Devkit) -> None:
        assert spoilable.has_mask(FIRST)
        self.mask_path(spoilable).unlink()
        assert spoilable.mask(FIRST) is None
        assert not spoilable.has_mask(FIRST)
        assert spoilable.object_mask(FIRST) is not None
        assert spoilable.mask(FIRST, "SegmentationOther") is None

    def test_another_size(self, spoilable: Devkit) -> None:
        write_mask(self.mask_path(spoilable), np.zeros((40, 30), np.uint8))
        with pytest.raises(DevkitError, match=rf"SegmentationClass/{FIRST}\.png is for 30 x 40"):
            spoilable.mask(FIRST)

    @pytest.mark.parametrize("value", [21, 254])
    def test_ids_that_are_no_class(self, spoilable: Devkit, value: int) -> None:
        mask = np.zeros(spoilable.image_size(FIRST), np.uint8)
        mask[0, :3] = value
        write_mask(self.mask_path(spoilable), mask)
        with pytest.raises(DevkitError, match=rf"expected class ids .* got {value} \(3 pixels\)"):
            spoilable.mask(FIRST)

    def test_object_numbers_may_exceed_the_classes(self, spoilable: Devkit) -> None:
        mask = np.full(spoilable.image_size(FIRST), 40, np.uint8)
        write_mask(spoilable.root / "SegmentationObject" / f"{FIRST}.png", mask)
        np.testing.assert_array_equal(spoilable.object_mask(FIRST), mask)

    def test_grey_mask_reads_like_a_palette_mask(self, spoilable: Devkit) -> None:
        before = spoilable.mask(FIRST)
        assert before is not None
        Image.fromarray(before).save(self.mask_path(spoilable))
        np.testing.assert_array_equal(spoilable.mask(FIRST), before)

    @pytest.mark.parametrize("colours", [None, 32])
    def test_colours_instead_of_ids(self, spoilable: Devkit, colours: int | None) -> None:
        path, before = self.mask_path(spoilable), spoilable.mask(FIRST)
        picture = Image.open(path).convert("RGB")
        (picture if colours is None else picture.quantize(colours)).save(path)
        np.testing.assert_array_equal(spoilable.mask(FIRST), before)

    def test_damage(self, spoilable: Devkit) -> None:
        path = self.mask_path(spoilable)
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"not a picture"):
            path.write_bytes(damaged)
            with pytest.raises(DevkitError, match=rf"{FIRST}\.png"):
                spoilable.mask(FIRST)

    def test_any_flipped_byte_is_an_error_or_harmless(self, spoilable: Devkit) -> None:
        path = self.mask_path(spoilable)
        whole = path.read_bytes()
        expected = spoilable.mask(FIRST)
        refused = 0
        for position in np.random.default_rng(0).integers(0, len(whole), 40).tolist():
            flipped = bytearray(whole)
            flipped[position] ^= 0x10
            path.write_bytes(flipped)
            try:
                np.testing.assert_array_equal(spoilable.mask(FIRST), expected)
            except DevkitError:
                refused += 1
        assert refused > 0


class TestAvailability:
    def test_equals_asking_image_by_image(self, spoilable: Devkit) -> None:
        ids = spoilable.image_ids("Segmentation/trainval")
        (spoilable.root / "Annotations" / f"{ids[0]}.xml").unlink()
        for image_id in ids[1:4]:
            (spoilable.root / "SegmentationClass" / f"{image_id}.png").unlink()
        available = spoilable.availability(ids[:6])
        assert available.boxes == {name for name in ids[:6] if spoilable.has_boxes(name)}
        assert available.masks == {name for name in ids[:6] if spoilable.has_mask(name)}
        assert available.objects == set(ids[1:6])  # the first has object numbers, but no boxes
        assert len(available.boxes) == 5
        assert len(available.masks) == 3

    def test_augmented_masks_add_to_the_devkits(self, spoilable: Devkit) -> None:
        ids = spoilable.image_ids("Segmentation/trainval")
        added = spoilable.root / "SegmentationClassAug"
        added.mkdir()
        path = spoilable.root / "SegmentationClass" / f"{ids[1]}.png"
        path.rename(added / path.name)
        (spoilable.root / "SegmentationClass" / f"{ids[2]}.png").unlink()
        available = spoilable.availability(ids, added.name)
        assert available.masks == set(ids) - {ids[2]}
        assert available.masks == {name for name in ids if spoilable.has_mask(name, added.name)}
        assert spoilable.mask(ids[1]) is None
        assert spoilable.mask(ids[1], added.name) is not None
        np.testing.assert_array_equal(spoilable.mask(ids[0], added.name), spoilable.mask(ids[0]))
        assert spoilable.mask(ids[2], added.name) is None

    def test_absent_folder(self, drawn: Devkit) -> None:
        available = drawn.availability([FIRST], "SegmentationClassAug")
        assert available.masks == {FIRST}
        assert drawn.availability([FIRST], "SegmentationOther").masks == frozenset()
        assert available.boxes == {FIRST}

    def test_folder_of_a_list(self) -> None:
        for name in ("SegmentationAug/train", "Segmentation/train_aug", "Main/trainaug",
                     "Segmentation/AugTrain", "Segmentation/augmented", "Main/aug2"):  # fmt: skip
            assert mask_folder(name) == "SegmentationClassAug", name
        for name in ("Segmentation/train", "Main/x", "Main/august", "Main/laughing"):
            assert mask_folder(name) == "SegmentationClass", name


class TestRealPhotographs:
    """The layout as others wrote it: real photographs, where they are at hand."""

    def test_a_portion_loads_whole(self, real: Devkit) -> None:
        every = 1 if os.environ.get("VOC_ALL") else 25
        names = sorted(path.stem for path in (real.root / "JPEGImages").iterdir())[::every]
        boxes = 0
        for name in names:
            annotation = real.annotation(name)
            assert annotation is not None
            height, width = real.read_image(name).shape[:2]
            assert (annotation.boxes[:, :2] >= 0).all()
            assert (annotation.boxes[:, 2:] <= (width, height)).all()
            assert (annotation.boxes[:, 2:] > annotation.boxes[:, :2]).all()
            boxes += len(annotation.boxes)
            for folder in ("SegmentationClass", "SegmentationClassAug"):
                mask = real.mask(name, folder)
                assert (mask is not None) == real.has_mask(name, folder)
            real.object_mask(name)
        assert boxes >= len(names)

    def test_every_list_reads(self, real: Devkit) -> None:
        for name in real.lists():
            ids = real.image_ids(name)
            available = real.availability(ids, mask_folder(name))
            assert available.boxes == set(ids)
            if name.startswith("Segmentation"):
                assert available.masks == set(ids)

    def test_real_boxes_fit_the_real_masks(self, real_voc: Devkit) -> None:
        """A box of a class must hold pixels of it, and they must lie nowhere else."""
        for name in real_voc.image_ids("Segmentation/val")[::25]:
            annotation, mask = real_voc.annotation(name), real_voc.mask(name)
            assert annotation is not None
            assert mask is not None
            for label in np.unique(annotation.labels):
                covered = np.zeros(mask.shape, dtype=bool)
                for x1, y1, x2, y2 in annotation.boxes[annotation.labels == label].astype(int):
                    covered[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
                pixels = mask == label
                assert pixels.any()
                assert (pixels & covered).sum() > 0.97 * pixels.sum()
