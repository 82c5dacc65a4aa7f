from __future__ import annotations

from pathlib import Path

import pytest

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.sidecar import read_export_sidecar
from kdcli.tutor_gen.tutors.sidecar import read_class_names, sidecar_path

EXAMPLE = (
    Path(__file__).resolve().parents[2]
    / "docs"
    / "faster_rcnn_fbnetv3a_coco_int8.torchscript.pt.toml"
)
GOOD = """
[input]
container = "batch"
channels = "RGB"
scale = 1
[output]
boxes = 0
labels = 1
confidences = 2
box_frame = "relative"
classes = ["zebra", "cat"]
"""


def write(tmp_path: Path, content: str | bytes) -> Path:
    model = tmp_path / "model.pt"
    data = content if isinstance(content, bytes) else content.encode()
    sidecar_path(model).write_bytes(data)
    return model


def test_it_lies_beside_the_name_as_given_not_beside_a_links_target(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "model.pt").touch()
    link = tmp_path / "mine.pt"
    link.symlink_to(tmp_path / "far" / "model.pt")
    assert sidecar_path(link) == tmp_path / "mine.pt.toml"


def test_what_is_not_said_has_a_default(tmp_path: Path) -> None:
    sidecar = read_export_sidecar(write(tmp_path, GOOD))
    assert (sidecar.input.short_side, sidecar.input.long_side, sidecar.output.path) == (0, 0, ())
    assert sidecar.output.masks is None
    assert sidecar.output.class_names == {0: "zebra", 1: "cat"}


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    sidecar = read_export_sidecar(write(tmp_path, EXAMPLE.read_bytes()))
    assert sidecar.output.path == (1, 0)
    assert sidecar.output.class_names[1] == "person"
    assert sidecar.output.class_names[90] == "toothbrush"
    assert 12 not in sidecar.output.class_names


def test_contiguous_numbers_start_at_zero(tmp_path: Path) -> None:
    content = GOOD.replace('["zebra", "cat"]', '"coco-contiguous"')
    names = read_export_sidecar(write(tmp_path, content)).output.class_names
    assert (names[0], names[79], len(names)) == ("person", "toothbrush", 80)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"batch"', '"tuple"', r"\[input\] container: expected one of list, batch, image"),
        ('"RGB"', '"GBR"', r"\[input\] channels: expected one of BGR, RGB, got 'GBR'"),
        ("scale = 1", "", r"\[input\] lacks 'scale': expected a number"),
        ("scale = 1", "scale = -1", r"\[input\] scale: expected a number, not negative, got -1"),
        ("scale = 1", "scale = true", r"\[input\] scale: expected a number"),
        ("scale = 1", "scale = 1\nsides = 3", r"\[input\]: unknown key 'sides'"),
        ("boxes = 0", "boxes = 0.5", r"\[output\] boxes: expected a key or a position, got 0.5"),
        ("labels = 1", "", r"\[output\] lacks 'labels'"),
        ("labels = 1", "labels = 1\npath = 3", r"\[output\] path: expected a list of keys"),
        ('"relative"', '"original"', r"\[output\] box_frame: expected one of input, relative"),
        ('["zebra", "cat"]', '"coco"', r"\[output\] classes: expected one of coco-categories, "),
        ('["zebra", "cat"]', "[]", r"or a list of names, got \[\]"),
        ("[output]", "[outputs]", r"the table \[output\] is missing"),
        ("[input]", "top = 1\n[input]", "unknown table or key 'top'"),
        ("[input]", "[input", "is not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    model = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(TutorError, match=message) as error:
        read_export_sidecar(model)
    assert str(sidecar_path(model)) in str(error.value)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TutorError, match=r"model\.pt\.toml does not exist"):
        read_export_sidecar(tmp_path / "model.pt")
    with pytest.raises(TutorError, match="is not valid TOML"):
        read_export_sidecar(write(tmp_path, b"\xff\xfe"))


def test_class_names_alone(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path, 'class_names = ["cat", "tv"]')) == ["cat", "tv"]
    assert read_class_names(write(tmp_path, '\ufeffclass_names = ["cat"]')) == ["cat"]
    for wrong in ("", "class_names = []", "class_names = [1]", 'class_names = "cat"'):
        with pytest.raises(TutorError, match="expected class_names to be a list of class names"):
            read_class_names(write(tmp_path, wrong))
