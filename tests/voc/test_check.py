"""check-data: drawn scenes, damaged in each way that a data set can be wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from kdcli.cli import main
from kdcli.voc.check.check import check_data
from kdcli.voc.check.problems import Level, Problem, Report
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_mask, write_mask

Damage = Callable[[Devkit, str], None]
CASES: list[tuple[Damage, Problem]] = []


def found(devkit: Devkit, *lists: str) -> Report:
    return check_data(devkit, lists)


def kinds(report: Report) -> dict[Problem, list[str]]:
    """Where each kind was found; that some classes are not drawn is left out."""
    return {
        problem: [finding.where for finding in those]
        for problem, those in report.of_kind().items()
        if problem is not Problem.NO_OBJECTS
    }


def case(problem: Problem) -> Callable[[Damage], Damage]:
    def add(damage: Damage) -> Damage:
        CASES.append((damage, problem))
        return damage

    return add


def change_xml(devkit: Devkit, image_id: str, pattern: str, value: str) -> None:
    path = devkit.annotation_path(image_id)
    text, changed = re.subn(pattern, value, path.read_text(), count=1)
    assert changed == 1
    path.write_text(text)


@case(Problem.PHOTOGRAPH)
def photograph_cut_off(devkit: Devkit, image_id: str) -> None:
    path = devkit.image_path(image_id)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@case(Problem.PHOTOGRAPH)
def photograph_of_text(devkit: Devkit, image_id: str) -> None:
    devkit.image_path(image_id).write_text("no picture")


@case(Problem.SEVERAL_FILES)
def photograph_twice(devkit: Devkit, image_id: str) -> None:
    path = devkit.image_path(image_id)
    shutil.copy(path, path.with_suffix(".JPEG"))


@case(Problem.XML)
def xml_cut_off(devkit: Devkit, image_id: str) -> None:
    path = devkit.annotation_path(image_id)
    path.write_text(path.read_text()[:-20])


@case(Problem.XML)
def xml_without_size(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"(?s)<size>.*</size>", "")


@case(Problem.XML)
def box_of_words(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<xmin>\d+", "<xmin>left")


@case(Problem.XML)
def difficulty_of_words(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<difficult>0", "<difficult>perhaps")


@case(Problem.XML_SIZE)
def xml_of_another_size(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<width>\d+", "<width>999")


@case(Problem.MASK)
def mask_of_text(devkit: Devkit, image_id: str) -> None:
    devkit.mask_path(image_id).write_text("no picture")


@case(Problem.MASK_SIZE)
def mask_of_another_size(devkit: Devkit, image_id: str) -> None:
    mask = read_mask(devkit.mask_path(image_id))
    write_mask(devkit.mask_path(image_id), mask[1:])


@case(Problem.MASK_SIZE)
def object_mask_of_another_size(devkit: Devkit, image_id: str) -> None:
    path = devkit.mask_path(image_id, "SegmentationObject")
    write_mask(path, read_mask(path)[:, 1:])


@case(Problem.MASK_VALUE)
def mask_of_unknown_class(devkit: Devkit, image_id: str) -> None:
    mask = read_mask(devkit.mask_path(image_id)).copy()
    mask[0, 0] = 21
    write_mask(devkit.mask_path(image_id), mask)


@case(Problem.BOX_OUTSIDE)
def box_outside(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<xmax>\d+", "<xmax>4000")


@case(Problem.BOX_OUTSIDE)
def box_from_zero(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<ymin>\d+", "<ymin>0")


@case(Problem.BOX_INVERTED)
def box_inverted(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<xmin>(\d+)(?s:(.*?))<xmax>\d+", r"<xmin>9\2<xmax>4")


@case(Problem.BOX_SMALL)
def box_of_one_pixel(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<xmin>(\d+)(?s:(.*?))<xmax>\d+", r"<xmin>9\2<xmax>9")


@case(Problem.CLASS_NAME)
def unknown_class(devkit: Devkit, image_id: str) -> None:
    change_xml(devkit, image_id, r"<name>\w+", "<name>unicorn")


@case(Problem.OBJECT_WITHOUT_BOX)
def object_without_a_box(devkit: Devkit, image_id: str) -> None:
    path = devkit.mask_path(image_id, "SegmentationObject")
    mask = read_mask(path).copy()
    mask[:4, :4] = 99
    write_mask(path, mask)


@case(Problem.EXIF)
def turned_by_exif(devkit: Devkit, image_id: str) -> None:
    path = devkit.image_path(image_id)
    picture = Image.open(path)
    picture.load()
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, "JPEG", exif=exif)


@case(Problem.NO_LABELS)
def without_labels(devkit: Devkit, image_id: str) -> None:
    for path in (devkit.annotation_path(image_id), devkit.mask_path(image_id)):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "problem"), CASES, ids=lambda each: getattr(each, "__name__", "")
)
def test_each_damage_is_found_and_nothing_else(
    damage: Damage, problem: Problem, spoilable: Devkit
) -> None:
    image_id = spoilable.image_ids("Main/train")[2]
    damage(spoilable, image_id)
    report = found(spoilable)
    assert kinds(report) == {problem: [image_id]}
    assert report.has_errors == (problem.level is Level.ERROR)


def test_drawn_scenes_are_right(drawn: Devkit) -> None:
    report = found(drawn)
    assert kinds(report) == {}
    assert not report.has_errors
    assert report.facts == {"lists": 6, "images": 12, "with boxes": 12, "with class mask": 12}


def test_real_photographs_are_right(real: Devkit) -> None:
    report = found(real)
    assert not report.has_errors, report.of_kind()
    assert report.facts["images"] > 500


def test_missing_and_left_over_files(spoilable: Devkit) -> None:
    first, second, third = spoilable.image_ids("Main/train")[:3]
    spoilable.image_path(first).unlink()
    for name in spoilable.lists():
        path = spoilable.list_path(name)
        path.write_text(path.read_text().replace(f"{second}\n", ""))
    report = found(spoilable)
    assert set(kinds(report)) == {
        Problem.NO_PHOTOGRAPH, Problem.ORPHAN_XML, Problem.ORPHAN_MASK, Problem.UNLISTED,
    }  # fmt: skip
    assert set(kinds(report)[Problem.NO_PHOTOGRAPH]) == {first}
    assert kinds(report)[Problem.ORPHAN_XML] == kinds(report)[Problem.ORPHAN_MASK] == [first]
    assert kinds(report)[Problem.UNLISTED] == [second]
    assert kinds(found(spoilable, "Main/val")) == {}
    spoilable.image_path(third).unlink()
    assert kinds(found(spoilable, "Main/train")) == {Problem.NO_PHOTOGRAPH: [first, third]}


def test_the_same_photograph_in_train_and_val(spoilable: Devkit) -> None:
    train, val = spoilable.image_ids("Main/train")[0], spoilable.image_ids("Main/val")[0]
    for name in ("image_path", "annotation_path", "mask_path"):
        shutil.copy(getattr(spoilable, name)(train), getattr(spoilable, name)(val))
    shutil.copy(
        spoilable.mask_path(train, "SegmentationObject"),
        spoilable.mask_path(val, "SegmentationObject"),
    )
    report = found(spoilable)
    assert kinds(report) == {Problem.LEAK: [val]}
    assert report.findings[0].detail == f"is train's {train}"
    assert report.has_errors
    # In lists of different tasks it may be meant, unless both are named.
    spoilable.list_path("Main/val").write_text(
        "".join(f"{i}\n" for i in spoilable.image_ids("Main/val")[1:])
    )
    shutil.rmtree(spoilable.root / "ImageSets" / "Segmentation")
    (spoilable.root / "ImageSets" / "Segmentation").mkdir()
    (spoilable.root / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{val}\n")
    assert kinds(found(spoilable)) == {Problem.OTHER_LEAK: [val]}
    assert kinds(found(spoilable, "Main/train", "Segmentation/val")) == {Problem.LEAK: [val]}


def test_the_same_id_in_train_and_val(spoilable: Devkit) -> None:
    image_id = spoilable.image_ids("Main/train")[0]
    with spoilable.list_path("Main/val").open("a") as file:
        file.write(f"{image_id}\n")
    assert kinds(found(spoilable)) == {Problem.LEAK: [image_id]}


def test_a_photograph_twice_in_train(spoilable: Devkit) -> None:
    first, second = spoilable.image_ids("Main/train")[:2]
    for path in spoilable.root.glob(f"*/{first}.*"):
        shutil.copy(path, path.with_stem(second))
    assert kinds(found(spoilable)) == {Problem.TWICE: [second]}


def test_classes_that_cannot_be_learnt(spoilable: Devkit) -> None:
    val = spoilable.image_ids("Main/val")[0]
    change_xml(spoilable, val, r"<name>\w+", "<name>train")
    names = kinds(found(spoilable))
    assert names == {Problem.ONLY_VAL: ["train"]}
    never = [f.where for f in found(spoilable).of_kind()[Problem.NO_OBJECTS]]
    assert "train" not in never
    assert set(never) < set(CLASSES[1:])
    assert never


def test_lists(spoilable: Devkit) -> None:
    image_id = spoilable.image_ids("Main/train")[0]
    with spoilable.list_path("Main/train").open("a") as file:
        file.write(f"{image_id}\n")
    layout = spoilable.root / "ImageSets" / "Layout"
    layout.mkdir()
    (layout / "train.txt").write_text(f"{image_id} 1 2 3\n")
    assert kinds(found(spoilable)) == {
        Problem.LIST: ["Main/train"], Problem.OTHER_LIST: ["Layout/train"],
    }  # fmt: skip
    assert kinds(found(spoilable, "Layout/train")) == {Problem.LIST: ["Layout/train"]}
    assert kinds(found(spoilable, "Main/trian")) == {Problem.LIST: ["Main/trian"]}
    shutil.rmtree(spoilable.root / "ImageSets")
    assert kinds(found(spoilable))[Problem.LIST] == ["ImageSets"]


def test_a_data_set_without_any_label_misses_no_class(spoilable: Devkit) -> None:
    for folder in ("Annotations", "SegmentationClass", "SegmentationObject"):
        shutil.rmtree(spoilable.root / folder)
    assert set(found(spoilable).of_kind()) == {Problem.NO_LABELS}


def test_the_command(spoilable: Devkit, tmp_path: Path) -> None:
    page, voc = tmp_path / "page.html", str(spoilable.root)
    done = CliRunner().invoke(main, ["check-data", "--voc", voc])
    assert done.exit_code == 0
    assert "class that never occurs" in done.output
    image_id = spoilable.image_ids("Main/val")[1]
    unknown_class(spoilable, image_id)
    mask_of_another_size(spoilable, image_id)
    photograph_cut_off(spoilable, spoilable.image_ids("Main/val")[2])
    done = CliRunner().invoke(
        main, ["check-data", "--voc", voc, "--html", str(page), "--images", "4"]
    )
    assert done.exit_code == 1
    assert f"{image_id} (unicorn)" in done.output
    assert "has errors: mend them before you train" in done.output
    text = page.read_text()
    titles = re.findall(r"<h2>(\S+)</h2>", text)
    assert len(titles) == 4
    assert set(titles[:2]) == {image_id, spoilable.image_ids("Main/val")[2]}
    assert text.count("data:image/jpeg") == 6  # boxes and mask, of all but the one cut off
    assert "stretched to the photograph" in text
    done = CliRunner().invoke(main, ["check-data", "--voc", voc, "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["errors"] is True
    assert told["problems"]["class_name"]["findings"] == [{"where": image_id, "detail": "unicorn"}]


def test_a_page_of_a_damaged_png(spoilable: Devkit, tmp_path: Path) -> None:
    """What cannot be drawn is left out of the page."""
    image_id = spoilable.image_ids("Main/val")[1]
    mask_of_text(spoilable, image_id)
    xml_cut_off(spoilable, image_id)
    page = tmp_path / "page.html"
    arguments = ["--html", str(page), "--images", "1"]
    done = CliRunner().invoke(main, ["check-data", "--voc", str(spoilable.root), *arguments])
    assert done.exit_code == 1
    assert page.read_text().count("data:image/jpeg") == 1
