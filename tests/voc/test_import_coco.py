"""import-coco: what JSONs of COCO's format become, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO

from kdcli.cli import main
from kdcli.common.errors import DevkitError, KdcliError
from kdcli.voc.check.check import check_data
from kdcli.voc.classes import CLASSES
from kdcli.voc.coco import import_coco as importing
from kdcli.voc.coco import truth
from kdcli.voc.coco.import_coco import Imported, import_coco
from kdcli.voc.coco.write_truth import write_truth
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import read_mask
from kdcli.voc.labels import VOID, LabelSet
from kdcli.voc.labels_file import read_labels, write_labels

WIDTH, HEIGHT = 40, 30
SQUARE = [[10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]]


def photograph(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)


def thing(**other: Any) -> dict[str, Any]:
    """An annotation of a cat in image 1."""
    plain = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5, 10, 10], "iscrowd": 0}
    return {key: value for key, value in (plain | other).items() if value is not None}


def document(*annotations: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "images": [image()],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": list(annotations),
    } | other


def image(**other: Any) -> dict[str, Any]:
    return {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT} | other


def runs(size: list[int], counts: Any) -> dict[str, Any]:
    return {"size": size, "counts": counts}


def brought(tmp_path: Path, content: Any, **options: Any) -> tuple[Path, Imported]:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    if not (tmp_path / "photos").exists():
        photograph(tmp_path / "photos" / "a.jpg")
    out = tmp_path / "out"
    return out, import_coco({"train": path}, [tmp_path / "photos"], out, **options)


def class_mask(out: Path, image_id: str = "a") -> NDArray[np.uint8]:
    return read_mask(out / "SegmentationClass" / f"{image_id}.png")


def test_one_polygon(tmp_path: Path) -> None:
    box = {"bbox": [10.25, 5.5, 9.125, 9.0]}
    out, done = brought(tmp_path, document(thing(segmentation=SQUARE, **box)))
    assert done.labels.names == ("cat", "dog")  # in the order of their ids
    assert (done.images, done.with_boxes, done.with_masks) == (1, 1, 1)
    assert read_labels(out / "labels.toml") == done.labels
    expected = pycoco.decode(pycoco.merge(pycoco.frPyObjects(SQUARE, HEIGHT, WIDTH)))
    assert expected.sum() == 100
    np.testing.assert_array_equal(class_mask(out), expected)
    np.testing.assert_array_equal(read_mask(out / "SegmentationObject" / "a.png"), expected)
    text = (out / "Annotations" / "a.xml").read_text()
    for part in ("<name>cat</name>", "<xmin>11.25</xmin>", "<ymax>14.5</ymax>"):
        assert part in text
    assert (out / "JPEGImages" / "a.jpg").is_symlink()
    assert Devkit.open(out).lists() == ("Main/train", "Segmentation/train")


def test_run_lengths_of_both_kinds(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:9, 4:30] = 1
    packed = pycoco.encode(np.asfortranarray(mask))
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes.tolist(), len(flat)]).tolist()
    for counts in (packed["counts"].decode(), runs):
        folder = tmp_path / type(counts).__name__
        folder.mkdir()
        segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
        out, _ = brought(folder, document(thing(segmentation=segmentation)))
        np.testing.assert_array_equal(class_mask(out), mask)


def test_crowds_are_void_and_difficult(tmp_path: Path) -> None:
    whole = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]
    crowd = thing(id=2, category_id=7, iscrowd=1, segmentation=whole, bbox=[0, 0, WIDTH, HEIGHT])
    out, _ = brought(tmp_path, document(thing(segmentation=SQUARE), crowd))
    mask = class_mask(out)
    assert (mask == VOID).sum() == WIDTH * HEIGHT - 100
    assert (mask == 1).sum() == 100
    text = (out / "Annotations" / "a.xml").read_text()
    assert text.count("<difficult>1</difficult>") == 1
    assert text.index("<name>cat</name>") < text.index("<difficult>1</difficult>")


def test_an_object_without_segmentation_leaves_the_image_without_mask(tmp_path: Path) -> None:
    other = thing(id=2, image_id=2, segmentation=SQUARE)
    images = [
        {"id": n, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
        for n, name in ((1, "a"), (2, "b"), (3, "empty"))
    ]
    for name in ("a", "b", "empty"):
        photograph(tmp_path / "photos" / f"{name}.jpg")
    both = thing(id=3, segmentation=SQUARE)
    out, done = brought(tmp_path, document(thing(), both, other, images=images))
    assert (done.with_boxes, done.with_masks) == (3, 2)
    assert not (out / "SegmentationClass" / "a.png").exists()
    assert (out / "ImageSets" / "Main" / "train.txt").read_text() == "a\nb\nempty\n"
    assert (out / "ImageSets" / "Segmentation" / "train.txt").read_text() == "b\nempty\n"
    assert class_mask(out, "empty").sum() == 0


def test_boxes_only(tmp_path: Path) -> None:
    out, done = brought(tmp_path, document(thing()))
    assert done.with_masks == 0
    assert Devkit.open(out).lists() == ("Main/train",)


def test_masks_only(tmp_path: Path) -> None:
    """Without a bbox the box is around the mask; a category that is no thing has no box at all."""
    out, _ = brought(tmp_path, document(thing(segmentation=SQUARE, bbox=None)))
    assert "<xmin>11</xmin>" in (out / "Annotations" / "a.xml").read_text()
    shutil.rmtree(out)
    stuff = [{"id": 3, "name": "grass", "isthing": 0}]
    out, done = brought(tmp_path, document(thing(segmentation=SQUARE), categories=stuff))
    assert (done.with_boxes, done.with_masks) == (0, 1)
    assert class_mask(out).sum() == 100
    assert not (out / "Annotations" / "a.xml").exists()


def test_the_smaller_object_lies_on_top_unless_scores_say_otherwise(tmp_path: Path) -> None:
    inner = [[12, 7, 16, 7, 16, 11, 12, 11]]
    things = [thing(segmentation=inner), thing(id=2, category_id=7, segmentation=SQUARE)]
    out, _ = brought(tmp_path, document(*things))
    assert np.bincount(class_mask(out).ravel())[1:].tolist() == [16, 84]
    shutil.rmtree(out)
    scored = [each | {"score": score} for each, score in zip(things, (0.4, 0.9), strict=True)]
    out, _ = brought(tmp_path, document(*scored))
    assert np.bincount(class_mask(out).ravel())[1:].tolist() == [0, 100]


def test_boxes_are_made_to_fit(tmp_path: Path) -> None:
    things = [
        thing(id=1, bbox=[30, 20, 20, 10.0000001]),
        thing(id=2, bbox=[4.9, 3, 0.3, 8]),
        thing(id=3, bbox=[3, 3, 0, 8]),
        thing(id=4, bbox=[41, 3, 5, 8]),
    ]
    out, done = brought(tmp_path, document(*things))
    notes = done.notes
    assert notes == {truth.CLIPPED: 1, truth.WIDENED: 1, truth.LEFT_OUT: 2}
    annotation = read_boxes(out)
    assert annotation == [[30.0, 20.0, 40.0, 30.0], [5.0, 3.0, 6.0, 11.0]]


def read_boxes(out: Path) -> list[list[float]]:
    annotation = Devkit.open(out).annotation("a")
    assert annotation is not None
    boxes: list[list[float]] = annotation.boxes.tolist()
    return boxes


def test_labels_merge_categories_and_leave_others_out(tmp_path: Path) -> None:
    labels = LabelSet(("pet",), words={"pet": ("Cat", "hamster")})
    things = [thing(segmentation=SQUARE), thing(id=2, category_id=7)]
    out, done = brought(tmp_path, document(*things), labels=labels)
    assert done.left_out == {"dog": 1}
    assert "<name>pet</name>" in (out / "Annotations" / "a.xml").read_text()
    assert read_labels(out / "labels.toml") == labels
    assert class_mask(out).sum() == 100  # the dog, which has no segmentation, is no label


def test_masks_are_written_in_the_colours_of_the_labels(tmp_path: Path) -> None:
    """Whatever they are: here each label has the colour that VOC gives the other's number."""
    labels = LabelSet(("cat", "dog"), {"cat": (0, 128, 0), "dog": (128, 0, 0)})
    out, _ = brought(tmp_path, document(thing(segmentation=SQUARE)), labels=labels)
    mask = Devkit.open(out).mask("a")
    assert mask is not None
    assert set(np.unique(mask)) == {0, 1}
    assert (mask == 1).sum() == 100


def test_background_is_no_class_and_void_is_void(tmp_path: Path) -> None:
    categories = [
        {"id": 0, "name": "Background"},
        {"id": 3, "name": "cat"},
        {"id": 4, "name": "void"},
    ]
    things = [thing(segmentation=SQUARE),
              thing(id=2, category_id=4, segmentation=[[0, 0, 5, 0, 5, 5, 0, 5]])]  # fmt: skip
    out, done = brought(tmp_path, document(*things, categories=categories))
    assert done.labels.names == ("cat",)
    assert np.bincount(class_mask(out).ravel())[[1, VOID]].tolist() == [100, 25]
    assert (out / "Annotations" / "a.xml").read_text().count("<object>") == 1


def test_photographs_of_other_formats_are_converted(tmp_path: Path) -> None:
    photograph(tmp_path / "photos" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}]
    out, done = brought(tmp_path, document(thing(), images=images))
    assert done.notes == {importing.CONVERTED: 1}
    stored = np.asarray(Image.open(tmp_path / "photos" / "a.png")).astype(int)
    made = Devkit.open(out).read_image("a").astype(int)
    assert np.abs(stored - made).mean() < 5


def test_photographs_turned_by_exif_are_turned_as_they_were_annotated(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photos" / "a.jpg"
    photograph(path, HEIGHT, WIDTH, exif=exif, quality=95)
    out, done = brought(tmp_path, document(thing(segmentation=SQUARE)))
    assert done.notes == {importing.CONVERTED: 1}
    assert Devkit.open(out).image_size("a") == (HEIGHT, WIDTH)
    assert not check_data(Devkit.open(out)).has_errors


def test_copies(tmp_path: Path) -> None:
    out, _ = brought(tmp_path, document(thing()), copy=True)
    copied = out / "JPEGImages" / "a.jpg"
    assert not copied.is_symlink()
    assert copied.read_bytes() == (tmp_path / "photos" / "a.jpg").read_bytes()


def test_names_of_photographs(tmp_path: Path) -> None:
    for name in ("x/my cat.jpg", "y/my cat.jpg"):
        photograph(tmp_path / "photos" / name)
    images = [
        {"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for n, name in enumerate(("x/my cat.jpg", "y\\my cat.jpg"), start=1)
    ]
    out, _ = brought(tmp_path, document(thing(), images=images))
    assert Devkit.open(out).image_ids("Main/train") == ("x_my_cat", "y_my_cat")
    images[1]["file_name"] = "x/my_cat.jpg"
    photograph(tmp_path / "photos" / "x" / "my_cat.jpg")
    shutil.rmtree(out)
    with pytest.raises(DevkitError, match="would both be called x_my_cat: rename one"):
        brought(tmp_path, document(thing(), images=images))


WRONG: list[tuple[Any, str]] = [
    ([thing()], "got a list: results of a detector, perhaps"),
    ({"images": []}, "it has no list 'annotations'"),
    (document(images=[]), "names no image"),
    (document({"segments_info": []}), "give the JSON of objects"),
    (document(thing(category_id=4)), "annotation 1: there is no category of the id 4"),
    (document(thing(image_id=9)), "annotation 1: there is no image of the id 9"),
    (document(thing(bbox=[1, 2, 3])), r"expected a bbox x, y, width, height, got \[1, 2, 3\]"),
    (document(thing(bbox=[1, 2, -3, 4])), "expected a bbox"),
    (document(thing(bbox=None)), "has neither a bbox nor a segmentation"),
    (document(thing(segmentation=[1, 2, 3])), "expected polygons"),
    (document(thing(segmentation=runs([3, 3], [9]))), "a.jpg, its segmentation is of 3 x 3 pixels"),
    (document(thing(segmentation=runs([30, 40], [9]))), "its segmentation cannot be read"),
    (document(thing(segmentation=runs([30, 40], 9))), "its segmentation cannot be read"),
    (document(thing(segmentation={"size": [30, 40]})), "its segmentation cannot be read"),
    (document(images=[image(width=3)]), "has 40 x 30 pixels, by the JSON 3 x 30"),
    (document(images=[image(height="3")]), "image 0: expected 'height'"),
    (document(images=[image(height=2.5)]), "image 0: expected 'height' in pixels"),
    (document(images=[image(height=float("nan"))]), "image 0: expected 'height' in pixels"),
    (document(images=[image(height=float("inf"))]), "image 0: expected 'height' in pixels"),
    (document(annotations=[None]), "annotation"),
    (document(images=[image(file_name="b.jpg")]), "1 of 1 photographs .* first b.jpg"),
    (document(categories=[{"id": 3}]), "category 0: expected 'name'"),
    (document(categories=[{"id": 3, "name": "a"}] * 2), "the id 3 is taken twice"),
    (document(images=document()["images"] * 2), "the id 1 is taken twice"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_what_is_wrong_is_said_and_nothing_is_left(
    content: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DevkitError, match=message):
        brought(tmp_path, content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "train.json"]


def test_json_that_is_none(tmp_path: Path) -> None:
    for text, message in (("{", "is not JSON"), ("[1", "is not JSON")):
        (tmp_path / "val.json").write_text(text)
        with pytest.raises(DevkitError, match=message):
            import_coco({"val": tmp_path / "val.json"}, [tmp_path], tmp_path / "out")
    with pytest.raises(DevkitError, match=r"Cannot read .*absent\.json"):
        import_coco({"val": tmp_path / "absent.json"}, [tmp_path], tmp_path / "out")


def test_a_stop_leaves_nothing(drawn: Devkit, tmp_path: Path) -> None:
    write_truth(tmp_path / "train.json", drawn, drawn.image_ids("Main/train"))

    def stop(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        yield next(iter(items))
        raise KeyboardInterrupt

    source, photographs = {"train": tmp_path / "train.json"}, [drawn.root / "JPEGImages"]
    with pytest.raises(KeyboardInterrupt):
        import_coco(source, photographs, tmp_path / "out", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]


def test_words_of_labels_come_before_names() -> None:
    labels = LabelSet(("mug", "cat"), words={"mug": ("cat",)})
    assert importing.label_ids(["Cat", "MUG", "dog"], labels) == {"Cat": 1, "MUG": 1}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    out, _ = brought(tmp_path, document(thing()))
    before = sorted(out.rglob("*"))
    with pytest.raises(KdcliError, match="exists already and is not overwritten"):
        brought(tmp_path, document(thing()))
    assert sorted(out.rglob("*")) == before


def truth_round_trip(devkit: Devkit, tmp_path: Path, limit: int, least: int) -> None:
    """Ground truth as JSON, and back: boxes exact, masks equal, the JSON good for pycocotools."""
    sources, numbered = {}, 0
    for split in ("train", "val"):
        ids = devkit.image_ids(f"Segmentation/{split}")[:limit]
        sources[split] = tmp_path / f"{split}.json"
        write_truth(sources[split], devkit, ids)
    coco = COCO(str(sources["val"]))
    assert len(coco.getImgIds()) == len(devkit.image_ids("Segmentation/val")[:limit])
    segmented = [each for each in coco.loadAnns(coco.getAnnIds()) if "segmentation" in each]
    assert len(segmented) > limit
    for annotation in segmented:
        assert pycoco.area(coco.annToRLE(annotation)) == annotation["area"]
    out = tmp_path / "again"
    photos = devkit.image_path(devkit.image_ids("Segmentation/val")[0]).parent
    done = import_coco(sources, [photos], out)
    assert done.labels.names == CLASSES[1:]
    again = Devkit.open(out)
    assert again.image_ids("Segmentation/train") == devkit.image_ids("Segmentation/train")[:limit]
    for image_id in again.image_ids("Segmentation/val"):
        ours, theirs = again.annotation(image_id), devkit.annotation(image_id)
        assert ours is not None
        assert theirs is not None
        for name in ("boxes", "labels", "difficult"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_array_equal(again.mask(image_id), devkit.mask(image_id))
        numbers = again.object_mask(image_id)
        if numbers is not None:  # where they were those of the boxes and of the class mask
            np.testing.assert_array_equal(numbers, devkit.object_mask(image_id))
            numbered += 1
    assert numbered >= least
    assert not check_data(again).has_errors


def test_drawn_scenes_there_and_back(drawn: Devkit, tmp_path: Path) -> None:
    truth_round_trip(drawn, tmp_path, 12, least=4)


def test_real_photographs_there_and_back(real: Devkit, tmp_path: Path) -> None:
    if "coco" not in str(real.root):
        pytest.skip("has no object masks")
    truth_round_trip(real, tmp_path, 110, least=10)


def test_class_masks_without_object_masks_there_and_back(spoilable: Devkit, tmp_path: Path) -> None:
    shutil.rmtree(spoilable.root / "SegmentationObject")
    ids = spoilable.image_ids("Segmentation/val")
    (spoilable.root / "SegmentationClass" / f"{ids[0]}.png").unlink()
    write_truth(tmp_path / "val.json", spoilable, ids)
    out = tmp_path / "out"
    done = import_coco({"val": tmp_path / "val.json"}, [spoilable.root / "JPEGImages"], out)
    assert (done.with_boxes, done.with_masks) == (len(ids), len(ids) - 1)
    for image_id in ids[1:]:
        mask = Devkit.open(out).mask(image_id)
        np.testing.assert_array_equal(mask, spoilable.mask(image_id))
    assert not list((out / "SegmentationObject").iterdir())


def test_truth_of_more_boxes_than_object_numbers(spoilable: Devkit, tmp_path: Path) -> None:
    image_id = spoilable.image_ids("Segmentation/val")[0]
    path = spoilable.annotation_path(image_id)
    text = path.read_text()
    thing = text[text.index("<object>") : text.index("</object>") + len("</object>")]
    path.write_text(text.replace("</annotation>", thing * 300 + "</annotation>"))
    write_truth(tmp_path / "val.json", spoilable, [image_id])
    written = json.loads((tmp_path / "val.json").read_text())
    assert sum(bool(each.get("bbox")) for each in written["annotations"]) > 300


def test_the_command(drawn: Devkit, tmp_path: Path) -> None:
    for split in ("train", "val"):
        ids = drawn.image_ids(f"Main/{split}")
        write_truth(tmp_path / f"instances_{split}2017.json", drawn, ids)
    files = [str(tmp_path / f"instances_{split}2017.json") for split in ("train", "val")]
    photos = ["--images", str(drawn.root / "JPEGImages")]
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["import-coco", *files, *photos, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "12 images (train 8, val 4), 12 with boxes, 12 with masks; 20 classes" in done.output
    again = CliRunner().invoke(main, ["import-coco", *files, *photos, "--out", str(out)])
    assert again.exit_code == 1
    assert "is not overwritten" in again.output
    write_labels(
        tmp_path / "mine.toml", LabelSet(("animal",), words={"animal": ("cat", "dog", "cow")})
    )
    merged = [
        "import-coco", "--list", f"first={files[0]}", *photos, "--out", str(tmp_path / "merged"),
        "--labels", str(tmp_path / "mine.toml"),
    ]  # fmt: skip
    done = CliRunner().invoke(main, merged)
    assert done.exit_code == 0, done.output
    assert "first 8" in done.output
    assert "Left out, annotations of categories that are no label: aeroplane" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.json"], "say so with --list NAME=x.json"),
        (["--list", "x.json"], "--list is NAME=JSON"),
        (["train.json", "train2.json"], "would both be the list train"),
        ([], "Name a JSON of COCO's format"),
    ],
)
def test_the_commands_mistakes(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = ["import-coco", *arguments, "--images", ".", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code != 0
    assert message in done.output
    assert not (tmp_path / "o").exists()
