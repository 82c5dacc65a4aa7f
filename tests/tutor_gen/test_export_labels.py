"""export-labels: what other programs read, and what comes back by import-coco and the devkit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdcli.cache.format.vectors import from_threshold, winners
from kdcli.cache.reader import TutorCache
from kdcli.cli import main
from kdcli.common.errors import KdcliError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.detectron2.load import from_config
from kdcli.tutor_gen.export.labels import open_labels
from kdcli.tutor_gen.export.voc import whole_boxes
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.check.check import check_data
from kdcli.voc.coco.import_coco import import_coco
from kdcli.voc.coco.write_truth import write_truth
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import make_sample

THRESHOLD = 0.3
IMAGES = 6


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return make_sample(tmp_path_factory.mktemp("drawn") / "voc", images=IMAGES, seed=7_500_000)


@pytest.fixture(scope="module")
def plain(
    voc: Devkit, detection_tutor: Tutor, segmentation_tutor: Tutor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """Boxes and label maps."""
    out = tmp_path_factory.mktemp("plain") / "plain.zarr"
    ids = voc.image_ids("Main/trainval")
    generate(voc, ids, TutorPair(detection_tutor, segmentation_tutor), out)
    return out


@pytest.fixture(scope="module")
def keeping(voc: Devkit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps, and the instances that they are made of."""
    out = tmp_path_factory.mktemp("keeping") / "keeping.zarr"
    settings = ModelSettings(0.05, masks=True, keep_masks=True)
    tutor = from_config(SAMPLE / "segmentation.yaml", SAMPLE / "segmentation.pth", settings)
    config = generation_config(segmentation__keep_masks=True)
    generate(voc, voc.image_ids("Main/trainval"), TutorPair(None, tutor, config), out)
    return out


def export(cache: Path, voc: Devkit, form: str, out: Path, *more: str) -> str:
    arguments = ["export-labels", str(cache), "--format", form, "--voc", str(voc.root)]
    arguments += ["--threshold", str(THRESHOLD), "--out", str(out), *more]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def class_map(cache: TutorCache, image_id: str) -> Any:
    output = cache[image_id]
    return winners(from_threshold(output.palette, THRESHOLD))[output.index_map]


def coco_of(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_coco_of_boxes_and_regions(plain: Path, voc: Devkit, tmp_path: Path) -> None:
    said = export(plain, voc, "coco", tmp_path / "labels.json")
    assert "the detection tutor's objects and each class of the label maps as a region" in said
    coco, cache = coco_of(tmp_path / "labels.json"), TutorCache.open(plain)
    names = {
        each["id"]: (each["name"], each["isthing"]) for each in coco.loadCats(coco.getCatIds())
    }
    for image in coco.loadImgs(coco.getImgIds()):
        image_id = Path(image["file_name"]).stem
        its = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        boxes = [each for each in its if names[each["category_id"]][1]]
        sure = cache.boxes(image_id)
        sure = sure.take(sure.scores >= np.float32(THRESHOLD))
        assert len(boxes) == len(sure)
        assert sorted(each["score"] for each in boxes) == sorted(sure.scores.tolist())
        assert all("segmentation" not in each for each in boxes)
        painted = np.zeros((image["height"], image["width"]), np.int64)
        for each in its:
            name, isthing = names[each["category_id"]]
            if not isthing:
                painted[coco.annToMask(each) > 0] = cache.class_names.index(name)
                assert pycoco.area(coco.annToRLE(each)) == each["area"] > 0
                assert THRESHOLD <= each["score"] <= 1
        np.testing.assert_array_equal(painted, class_map(cache, image_id))


def test_coco_of_instances(keeping: Path, voc: Devkit, tmp_path: Path) -> None:
    said = export(keeping, voc, "coco", tmp_path / "labels.json")
    assert "the segmentation tutor's objects with their masks" in said
    assert "region" not in said
    coco, cache = coco_of(tmp_path / "labels.json"), TutorCache.open(keeping)
    assert len(coco.getCatIds()) == 20
    for image in coco.loadImgs(coco.getImgIds()):
        its = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        kept = cache.instances(Path(image["file_name"]).stem)
        assert kept is not None
        assert len(its) == (kept.scores >= np.float32(THRESHOLD)).sum() > 0
        for each in its:
            assert pycoco.area(coco.annToRLE(each)) == each["area"]
            x, y, width, height = each["bbox"]
            rows, columns = np.nonzero(coco.annToMask(each))
            # Masks are read between the centres of 28 x 28 cells: half of one sticks out.
            assert x - width / 28 - 1 <= columns.min() <= columns.max() <= x + width * 29 / 28 + 1
            assert y - height / 28 - 1 <= rows.min() <= rows.max() <= y + height * 29 / 28 + 1


def test_pycocotools_scores_what_was_exported(keeping: Path, voc: Devkit, tmp_path: Path) -> None:
    """loadRes, and an evaluation of boxes and masks against the scenes' ground truth."""
    write_truth(tmp_path / "truth.json", voc, voc.image_ids("Main/trainval"))
    export(keeping, voc, "coco", tmp_path / "labels.json")
    results = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    truth = coco_of(tmp_path / "truth.json")
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, truth.loadRes([dict(each) for each in results]), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert evaluation.stats[1] > 0.5, kind  # AP at an IoU of .5


@pytest.mark.parametrize("store", ["plain", "keeping"])
def test_coco_there_and_back(
    store: str, voc: Devkit, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Boxes exact, masks equal: of regions to the bit, of instances but for their rounding."""
    path = request.getfixturevalue(store)
    cache = TutorCache.open(path)
    same = ["--segmentation-threshold", str(THRESHOLD)]
    export(path, voc, "coco", tmp_path / "labels.json", *same)
    photographs = [voc.root / "JPEGImages"]
    done = import_coco({"all": tmp_path / "labels.json"}, photographs, tmp_path / "out")
    assert done.labels.all_names == cache.class_names
    again = Devkit.open(tmp_path / "out")
    differing = pixels = 0
    for image_id in cache.image_ids:
        said = cache.boxes(image_id) if store == "plain" else cache.instances(image_id)
        assert said is not None
        said = said.take(np.lexsort((-said.labels.astype(int), said.scores)))
        said = said.take(said.scores >= np.float32(THRESHOLD))
        annotation = again.annotation(image_id)
        assert annotation is not None
        np.testing.assert_array_equal(annotation.boxes, said.boxes)
        np.testing.assert_array_equal(annotation.labels, said.labels)
        mask = again.mask(image_id)
        assert mask is not None
        differing += int((mask != class_map(cache, image_id)).sum())
        pixels += mask.size
        assert (again.object_mask(image_id) is None) == (store == "plain")
    assert differing <= (0 if store == "plain" else pixels / 1000)
    assert not check_data(again).has_errors


def test_voc_is_read_by_the_devkit(keeping: Path, voc: Devkit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    same = [
        "--segmentation-threshold",
        str(THRESHOLD),
        "--list",
        "Main/val",
        "--list",
        "Main/train",
    ]
    said = export(keeping, voc, "voc", out, *same)
    assert f"{IMAGES} images" in said
    assert "with their masks and class masks from the label maps" in said
    cache, again = TutorCache.open(keeping), Devkit.open(out)
    assert again.labels.all_names == cache.class_names
    assert again.lists() == ("Main/train", "Main/val")
    for image_id in again.image_ids("Main/val") + again.image_ids("Main/train"):
        np.testing.assert_array_equal(again.mask(image_id), class_map(cache, image_id))
        annotation, kept = again.annotation(image_id), cache.instances(image_id)
        assert annotation is not None
        assert kept is not None
        kept = kept.take(np.argsort(-kept.scores, kind="stable"))
        kept = kept.take(kept.scores >= np.float32(THRESHOLD))
        np.testing.assert_array_equal(annotation.boxes, np.rint(kept.boxes))
        numbers = again.object_mask(image_id)
        assert numbers is not None
        assert 0 < numbers.max() <= len(kept)
        # Where one object alone lies, it is of the class that the label map says.
        seen = numbers > 0
        agree = np.concatenate([[0], annotation.labels])[numbers] == again.mask(image_id)
        assert agree[seen].mean() > 0.99
        scores = [line for line in xml_of(again, image_id).splitlines() if "<score>" in line]
        assert len(scores) == len(kept)
    assert not check_data(again).has_errors


def xml_of(devkit: Devkit, image_id: str) -> str:
    return devkit.annotation_path(image_id).read_text()


def test_a_store_of_boxes_has_no_masks(plain: Path, voc: Devkit, tmp_path: Path) -> None:
    export(plain, voc, "voc", tmp_path / "out")
    again = Devkit.open(tmp_path / "out")
    assert again.lists() == ("Main/all",)
    assert len(again.image_ids("Main/all")) == IMAGES
    assert not list((again.root / "SegmentationObject").iterdir())


def test_yolo(plain: Path, voc: Devkit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = export(plain, voc, "yolo", out, "--list", "Main/train", "--list", "Main/val")
    assert "wants a list val" not in said
    about = yaml.safe_load((out / "data.yaml").read_text())
    assert (about["train"], about["val"]) == ("images/train", "images/val")
    cache = TutorCache.open(plain)
    assert about["names"] == dict(enumerate(cache.class_names[1:]))
    for split in ("train", "val"):
        ids = voc.image_ids(f"Main/{split}")
        assert {path.stem for path in (out / "images" / split).iterdir()} == set(ids)
        for image_id in ids:
            with Image.open(out / "images" / split / f"{image_id}.jpg") as picture:
                size = np.array(picture.size * 2)
            text = (out / "labels" / split / f"{image_id}.txt").read_text()
            rows = np.array([line.split() for line in text.splitlines()], float).reshape(-1, 5)
            sure = cache.boxes(image_id)
            sure = sure.take(sure.scores >= np.float32(THRESHOLD))
            sure = sure.take(np.lexsort((-sure.labels.astype(int), sure.scores)))
            np.testing.assert_array_equal(rows[:, 0] + 1, sure.labels)
            centres, sizes = rows[:, 1:3], rows[:, 3:]
            boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) * size
            np.testing.assert_allclose(boxes, sure.boxes, atol=1e-3)
    assert "wants a list val" in export(plain, voc, "yolo", tmp_path / "all")


def test_supervision_reads_all_three(
    plain: Path, keeping: Path, voc: Devkit, tmp_path: Path
) -> None:
    """Roboflow's library, where it is installed."""
    supervision = pytest.importorskip("supervision")
    export(plain, voc, "yolo", tmp_path / "yolo")
    export(plain, voc, "voc", tmp_path / "voc")
    export(keeping, voc, "coco", tmp_path / "coco.json")
    yolo = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo" / "images" / "train"), str(tmp_path / "yolo" / "labels" / "train"),
        str(tmp_path / "yolo" / "data.yaml"),
    )  # fmt: skip
    of_voc = supervision.DetectionDataset.from_pascal_voc(
        str(tmp_path / "voc" / "JPEGImages"), str(tmp_path / "voc" / "Annotations")
    )
    coco = supervision.DetectionDataset.from_coco(
        str(voc.root / "JPEGImages"), str(tmp_path / "coco.json"), force_masks=True
    )
    boxes, instances = TutorCache.open(plain), TutorCache.open(keeping)
    assert len(yolo) == len(of_voc) == len(coco) == IMAGES
    assert yolo.classes == list(boxes.class_names[1:])
    for each, cache in ((yolo, boxes), (of_voc, boxes), (coco, instances)):
        for path, _, found in each:
            image_id = Path(path).stem
            said = cache.instances(image_id) if cache is instances else cache.boxes(image_id)
            assert said is not None
            assert len(found) == (said.scores >= np.float32(THRESHOLD)).sum()
            assert (found.mask is None) == (cache is boxes)


def test_which_objects(plain: Path, keeping: Path, voc: Devkit, tmp_path: Path) -> None:
    store = TutorCache.open(keeping)
    limits: dict[str, Any] = {"threshold": 0.5, "vector_threshold": 0.3}
    with pytest.raises(KdcliError, match="has no detection tutor: export the other one's objects"):
        open_labels(store, voc, source="detection", **limits)
    with pytest.raises(KdcliError, match=r"does not keep .* generate it with --keep-masks"):
        open_labels(TutorCache.open(plain), voc, source="segmentation", **limits)
    assert open_labels(store, voc, **limits).source == "segmentation"


def test_regions_alone(voc: Devkit, segmentation_tutor: Tutor, tmp_path: Path) -> None:
    """A segmentation tutor whose instances are not kept has no objects, for YOLO nothing at all."""
    ids, out = voc.image_ids("Main/val"), tmp_path / "c.zarr"
    generate(voc, ids, TutorPair(None, segmentation_tutor), out)
    export(out, voc, "coco", tmp_path / "labels.json", "--segmentation-threshold", "0.3")
    done = import_coco({"val": tmp_path / "labels.json"}, [voc.root / "JPEGImages"], tmp_path / "o")
    assert (done.with_boxes, done.with_masks) == (0, len(ids))
    cache = TutorCache.open(out)
    for image_id in ids:
        mask = Devkit.open(tmp_path / "o").mask(image_id)
        np.testing.assert_array_equal(mask, class_map(cache, image_id))
    command = ["export-labels", str(out), "--format", "yolo", "--voc", str(voc.root)]
    result = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "yolo")])
    assert result.exit_code == 1
    assert "YOLO's text is of boxes alone" in result.output
    assert not (tmp_path / "yolo").exists()


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_nothing_is_overwritten(form: str, plain: Path, voc: Devkit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("precious")
    command = ["export-labels", str(plain), "--format", form, "--voc", str(voc.root)]
    done = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert done.exit_code == 1
    assert f"{out}: exists already and is not overwritten" in done.output
    assert out.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_photographs_are_refused(plain: Path, voc: Devkit, tmp_path: Path) -> None:
    other = make_sample(tmp_path / "other", images=IMAGES, seed=3)
    command = ["export-labels", str(plain), "--format", "coco", "--voc", str(other.root)]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_boxes_of_whole_pixels_stay_in_the_image() -> None:
    boxes = np.array([[0.4, 0.6, 0.5, 0.7], [9.6, 19.9, 10, 20], [1.2, 2.7, 5.5, 8.5]], np.float32)
    assert whole_boxes(boxes, 20, 10).tolist() == [
        [0, 1, 1, 2], [9, 19, 10, 20], [1, 3, 6, 8],
    ]  # fmt: skip
