from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.common.names import difference, folded
from kdcli.voc.classes import CLASSES, VOC
from kdcli.voc.colours import PALETTE, labels_of_colours
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import LabelSet
from kdcli.voc.labels_file import format_labels, parse_labels, read_labels, write_labels

MUGS = """
names = ["mug", "dinner plate"]
[colours]
mug = "#e62828"
"dinner plate" = [1, 2, 3]
[map]
mug = ["cup", "wine glass"]
"dinner plate" = "plate"
"""

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: name.isprintable() and name == name.strip() and folded(name)
)


def test_voc_is_the_label_set_of_before():
    assert VOC.size == 21
    assert VOC.all_names == CLASSES
    assert VOC.id_of("person") == 15
    assert VOC.palette.tolist() == PALETTE.tolist()


def test_a_file_gives_ids_colours_and_words():
    labels = parse_labels(MUGS)
    assert labels.all_names == ("background", "mug", "dinner plate")
    assert labels.id_of("dinner plate") == 2
    assert labels.palette[:4].tolist() == [[0, 0, 0], [230, 40, 40], [1, 2, 3], [128, 128, 0]]
    assert labels.words == {"mug": ("cup", "wine glass"), "dinner plate": ("plate",)}


@given(st.lists(names, min_size=1, max_size=254, unique_by=folded), st.data())
def test_what_is_written_reads_back(listed, data):
    if "background" in map(folded, listed):
        return
    some = st.sampled_from(listed)
    words = data.draw(st.dictionaries(some, st.just(()), max_size=4))
    words = {name: (f"{name} a", f"{name} b") for name in words}
    colours = {name: (number, 255, 1) for number, name in enumerate(listed[:3])}
    labels = LabelSet(tuple(listed), colours, words)
    assert parse_labels(format_labels(labels)) == labels


@pytest.mark.parametrize("count", [1, 3, 20, 80, 150, 254])
def test_any_number_of_labels_has_distinct_colours(tmp_path: Path, count: int):
    labels = LabelSet(tuple(f"class {number}" for number in range(count)))
    write_labels(tmp_path / "labels.toml", labels)
    assert read_labels(tmp_path / "labels.toml") == labels
    used = labels.palette[[*range(labels.size), 255]]
    assert len(np.unique(used, axis=0)) == count + 2


def test_a_colour_taken_from_a_number_beyond_the_labels_is_the_labels():
    labels = LabelSet(("a", "b"), {"b": (64, 0, 0)})  # the devkit's colour of number 8
    assert labels_of_colours(labels.palette[:3], labels.palette).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names = [", "not TOML"),
        ("name = ['a']", "did you mean names"),
        ("names = 'a'", "a list of class names"),
        ("names = []", "1 or more"),
        (f"names = {[f'c{i}' for i in range(255)]}", "at most 254 object classes, got 255"),
        ("names = ['a', 'background']", "leave it out"),
        ("names = ['ice cream', 'Ice_Cream']", "'ice cream' and 'Ice_Cream'"),
        ("names = [' a']", "without spaces around"),
        ("names = ['a\\tb']".replace("'", '"'), "printable"),
        ("names = ['mug']\n[map]\nmugs = ['cup']", "did you mean mug"),
        ("names = ['mug']\n[map]\nmug = 3", "teacher's words for 'mug'"),
        ("names = ['a', 'b']\n[map]\na = ['Wine glass']\nb = ['wine_glass']", "to both 'a' and"),
        ("names = ['mug']\n[colours]\nplate = [1, 2, 3]", "the labels are mug"),
        ("names = ['mug']\n[colours]\nmug = [1, 2, 300]", "from 0 to 255"),
        ("names = ['mug']\n[colours]\nmug = '#12'", "#rrggbb"),
        ("names = ['mug']\n[colours]\nmug = [0, 0, 0]", "'background' and 'mug'"),
        ("names = ['a', 'b']\n[colours]\na = [0, 128, 0]", "'a' and 'b'"),
        ("names = ['mug']\nmap = 3", "table"),
    ],
)
def test_a_mistake_names_the_file_and_the_remedy(tmp_path: Path, text: str, message: str):
    path = tmp_path / "labels.toml"
    path.write_text(text)
    with pytest.raises(DevkitError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DevkitError, match=r"absent\.toml"):
        read_labels(tmp_path / "absent.toml")


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(DevkitError, match="did you mean pottedplant"):
        VOC.id_of("potted plants")


def test_differences_are_said_in_words():
    assert difference(["a"], ["a"]) == ""
    assert difference(["a", "b"], ["a"]) == "the second lacks b"
    assert difference(["a"], ["a", "b"]) == "the first lacks b"


def test_a_devkit_brings_its_labels(three_labels, tmp_path: Path):
    devkit = three_labels(tmp_path / "voc", 2)
    assert devkit.labels.names == ("vehicle", "living thing", "thing")
    assert Devkit.open(tmp_path / "voc", VOC).labels == VOC
    for image_id in devkit.image_ids("Main/trainval"):
        known, mask = devkit.annotation(image_id), devkit.mask(image_id)
        assert known is not None
        assert mask is not None
        assert set(known.labels) <= {1, 2, 3}
        assert set(np.unique(mask)) <= {0, 1, 2, 3, 255}
        picture = devkit.labels.palette[mask]  # as other programs save masks: in colours
        Image.fromarray(picture).save(tmp_path / "voc" / "SegmentationClass" / f"{image_id}.png")
        np.testing.assert_array_equal(devkit.mask(image_id), mask)


def test_a_devkit_refuses_what_is_none_of_its_labels(three_labels, tmp_path: Path):
    root = three_labels(tmp_path / "voc", 2).root
    fewer = Devkit(root, LabelSet(("vehicle",)))
    wrong = []
    for image_id in fewer.image_ids("Main/trainval"):
        for read in (fewer.annotation, fewer.mask):
            with contextlib.suppress(DevkitError):
                read(image_id)
                continue
            wrong.append((image_id, read.__name__))
    assert {name for _, name in wrong} == {"annotation", "mask"}
    (root / "labels.toml").write_text("names = 3")
    with pytest.raises(DevkitError, match=r"labels\.toml: Expected names"):
        Devkit.open(root)
