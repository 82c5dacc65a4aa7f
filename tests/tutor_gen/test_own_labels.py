"""Tutors for a data set of its own labels: words, mapping, what is refused, what is stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.coco import COCO_CLASSES
from kdcli.tutor_gen.classes.names import describe_class_names, gaps, labelled, never_labelled
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.combine import combine_caches
from kdcli.tutor_gen.comparison.compare import compare_stores
from kdcli.tutor_gen.comparison.content import to_json
from kdcli.tutor_gen.comparison.tables import all_tables
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.gallery import write_cache_gallery
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.quality.evaluate import evaluate_tutors
from kdcli.tutor_gen.registry import load_tutor, load_tutors
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.tutors.distributions import label_part
from kdcli.voc.classes import VOC
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import LabelSet

SAMPLE = generation_config(detection__tutor="sample", segmentation__tutor="sample")
MUGS = LabelSet(("mug", "Teddy-Bear", "lamp"), words={"mug": ("CUP", "wine_glass")})


def described(names: tuple[str, ...], labels: LabelSet) -> dict:
    return {"class_names": list(names), **describe_class_names(names, labels)}


def test_words_are_many_to_one_and_labels_go_by_their_own_name() -> None:
    ids = dict(zip(COCO_CLASSES, label_ids(COCO_CLASSES, MUGS), strict=True))
    assert {name: i for name, i in ids.items() if i} == {"cup": 1, "wine glass": 1, "teddy bear": 2}
    said = described(COCO_CLASSES, MUGS)
    assert labelled(said, MUGS.names) == {
        "mug": ("wine glass", "cup"),
        "Teddy-Bear": ("teddy bear",),
    }
    assert never_labelled(said, MUGS.names) == ("lamp",)
    assert gaps(described(("cup", "lamps"), MUGS), MUGS.names) == (
        "Teddy-Bear, lamp (misspelt as 'lamps'?)"
    )


def test_a_word_of_ones_own_takes_the_place_of_voc_s() -> None:
    labels = replace(VOC, words={"car": ("truck",)})
    ids = dict(zip(COCO_CLASSES, label_ids(COCO_CLASSES, labels), strict=True))
    assert (ids["car"], ids["truck"], ids["tv"]) == (0, 7, 20)
    assert labelled(described(COCO_CLASSES, labels))["car"] == ("truck",)


def test_probabilities_go_to_the_labels_of_their_classes() -> None:
    given = np.array([[0.1, 0.2, 0.6, 0.1]], dtype=np.float32)
    ids = np.array([1, 1, 2, 0], dtype=np.uint8)
    np.testing.assert_array_equal(
        label_part(given, np.array([0]), ids, 4), np.array([[0, 0.1, 0.6, 0]], np.float32)
    )


def test_unknown_words_are_refused_with_the_nearest(three_labels, tmp_path: Path) -> None:
    labels = LabelSet(("vehicle",), words={"vehicle": ("bus", "airplan", "xyzzy")})
    with pytest.raises(TutorError) as caught:
        load_tutors(SAMPLE, labels)
    message = str(caught.value)
    assert "vehicle: 'airplan': did you mean airplane?" in message
    assert "vehicle: 'xyzzy': nothing is like it" in message
    assert "'bus'" not in message
    assert "potted plant" in message


def test_a_tutor_that_can_give_no_label_is_refused() -> None:
    with pytest.raises(
        TutorError, match=r"none of its classes is one of the data set's labels.*map"
    ):
        load_tutor("sample", "detection", config=SAMPLE, labels=LabelSet(("mug", "plate")))


def test_tutors_of_other_labels_are_refused(three_labels, tmp_path: Path) -> None:
    devkit = three_labels(tmp_path / "three", 3)
    with pytest.raises(TutorError, match="the data set has vehicle, living thing, thing; load"):
        generate(devkit, devkit.image_ids("Main/train"), load_tutors(SAMPLE), tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()


@pytest.fixture(scope="module")
def three(
    three_labels: Callable[[Path, int], Devkit], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Devkit, Path]:
    folder = tmp_path_factory.mktemp("three")
    devkit = three_labels(folder / "voc", 9)
    ids = devkit.image_ids("Main/trainval")
    generate(devkit, ids, load_tutors(SAMPLE, devkit.labels), folder / "c.zarr")
    return devkit, folder / "c.zarr"


def test_what_is_stored_is_voc_s_answer_by_other_names(
    three: tuple[Devkit, Path], tmp_path: Path
) -> None:
    devkit, path = three
    plain = Devkit(devkit.root)
    ids = devkit.image_ids("Main/trainval")
    generate(plain, ids, load_tutors(SAMPLE), tmp_path / "voc.zarr")
    cache, voc = TutorCache.open(path), TutorCache.open(tmp_path / "voc.zarr")
    assert cache.class_names == devkit.labels.all_names
    assert not verify(path)
    means = dict(zip(VOC.all_names, label_ids(VOC.all_names, LabelSet(
        devkit.labels.names, words={
            "vehicle": ("aeroplane", "boat", "bus"),
            "living thing": ("cat", "person", "pottedplant"),
            "thing": ("bottle", "tvmonitor"),
        })), strict=True))  # fmt: skip
    known = np.array(list(means.values()), dtype=np.uint8)
    for image_id in ids:
        ours, theirs = cache[image_id], voc[image_id]
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.labels, known[theirs.labels])
        largest = np.zeros((*theirs.index_map.shape, 4), np.float32)
        for label, own in enumerate(known.tolist()):
            if own:
                vectors = theirs.label_vectors()[..., label]
                largest[..., own] = np.maximum(largest[..., own], vectors)
        np.testing.assert_array_equal(ours.label_vectors(), largest)


def test_tutors_of_three_labels_are_scored_compared_combined_and_shown(
    three: tuple[Devkit, Path], tmp_path: Path
) -> None:
    devkit, path = three
    cache, ids = TutorCache.open(path), devkit.image_ids("Main/trainval")
    found = evaluate_tutors(cache, devkit, ids, temperatures=(1.0,), thresholds=(0.3,))
    assert found.detection is not None
    assert found.segmentation is not None
    assert tuple(found.detection.average_precision) == devkit.labels.names
    assert tuple(found.segmentation.iou) == devkit.labels.all_names
    assert found.detection.map > 0.5
    assert found.segmentation.miou > 0.5
    compared = compare_stores({"one": cache}, devkit, ids)
    assert set(to_json(compared, "Main/trainval")["stores"]["one"]["missed"]) <= set(
        devkit.labels.names
    )
    scores = next(table for table in all_tables(compared) if table.title == "Each class")
    assert [row[0].text for row in scores.rows] == list(devkit.labels.all_names)
    again = load_again(cache, labels=devkit.labels)
    assert again.label(devkit.read_image(ids[0]), ids[0])[0].equals(cache[ids[0]])
    combine_caches([path, _copy(path, tmp_path)], tmp_path / "both.zarr", "mean")
    both = TutorCache.open(tmp_path / "both.zarr")
    assert both.class_names == cache.class_names
    assert never_labelled(both.settings["detection"], devkit.labels.names) == ()
    write_cache_gallery(tmp_path / "gallery.html", cache, devkit, 2)
    page = (tmp_path / "gallery.html").read_text()
    assert "living thing" in page
    assert "rgb(200, 30, 30)" in page
    assert "aeroplane" not in page


def _copy(path: Path, folder: Path) -> Path:
    return Path(shutil.copytree(path, folder / "copy.zarr"))
