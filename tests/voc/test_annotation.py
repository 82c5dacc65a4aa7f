from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.common.errors import DevkitError
from kdcli.voc.annotation import Annotation, parse_annotation
from kdcli.voc.annotation_xml import annotation_xml
from kdcli.voc.classes import CLASS_IDS


def write(folder: Path, objects: str, size: str = "<width>50</width><height>40</height>") -> Path:
    path = folder / "2008_000001.xml"
    text = f"<annotation><size>{size}<depth>3</depth></size>{objects}</annotation>"
    path.write_text(text, encoding="utf-8")
    return path


def an_object(name: str = "cat", box: str = "1 1 50 40", more: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def test_one_based_inclusive_becomes_continuous(tmp_path: Path) -> None:
    annotation = parse_annotation(write(tmp_path, an_object(box="1 3 50 40")))
    assert annotation.boxes.tolist() == [[0, 2, 50, 40]]
    assert annotation.boxes.dtype == np.float32
    assert annotation.labels.tolist() == [CLASS_IDS["cat"]]
    assert (annotation.image_id, annotation.height, annotation.width) == ("2008_000001", 40, 50)


def test_missing_flags_mean_no_and_given_ones_are_read(tmp_path: Path) -> None:
    flags = "<truncated>1</truncated><difficult>0</difficult>"
    both = an_object() + an_object(more=flags) + an_object(more="<difficult>1</difficult>")
    annotation = parse_annotation(write(tmp_path, both))
    assert annotation.difficult.tolist() == [False, False, True]
    assert annotation.truncated.tolist() == [False, True, False]


def test_parts_and_decimals_are_tolerated(tmp_path: Path) -> None:
    part = (
        "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax>"
        "<ymax>9</ymax></bndbox></part>"
    )
    path = write(tmp_path, an_object("person", "2 45.5 30.25 45.5".replace("45.5", "7.5"), part))
    annotation = parse_annotation(path)
    assert annotation.boxes.tolist() == [[1, 6.5, 30.25, 7.5]]


def test_no_objects(tmp_path: Path) -> None:
    annotation = parse_annotation(write(tmp_path, ""))
    assert annotation.boxes.shape == (0, 4)
    assert annotation.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("objects", "size", "message"),
    [
        (an_object("Cat"), None, "Unknown class 'Cat', did you mean cat or car?"),
        (an_object("background"), None, "the class of an object, got 'background'"),
        (an_object(box="0 1 5 5"), None, "leaves the image of 50 x 40"),
        (an_object(box="1 1 51 5"), None, "xmax 50 the last"),
        (an_object(box="9 1 5 5"), None, "inverted"),
        (an_object(box="1 nan 5 5"), None, "expected a number in <bndbox/ymin>, got 'nan'"),
        (an_object(box="1 one 5 5"), None, "got 'one'"),
        ("<object><name>cat</name></object>", None, "lacks <bndbox/xmin>"),
        ("", "<width>50</width>", "lacks <size/height>"),
        ("", "<width>0</width><height>40</height>", "positive <size>"),
        ("<object>", None, "not well-formed XML"),
    ],
)
def test_errors_name_file_and_fault(
    tmp_path: Path, objects: str, size: str | None, message: str
) -> None:
    path = write(tmp_path, objects) if size is None else write(tmp_path, objects, size)
    with pytest.raises(DevkitError) as caught:
        parse_annotation(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_empty_file_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "empty.xml").touch()
    with pytest.raises(DevkitError, match=r"empty\.xml is not well-formed"):
        parse_annotation(tmp_path / "empty.xml")
    with pytest.raises(DevkitError, match=r"Cannot read .*none\.xml"):
        parse_annotation(tmp_path / "none.xml")


@pytest.mark.parametrize("encoding", ["gbk", "gb2312", "shift_jis", "big5", "utf8", "utf-16"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, f"<owner>\u4e2d</owner>{an_object('person')}")
    declared = f'<?xml version="1.0" encoding="{encoding}"?>\n{path.read_text(encoding="utf-8")}'
    path.write_bytes(declared.encode(encoding))
    assert parse_annotation(path).labels.tolist() == [CLASS_IDS["person"]]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [("unicode", b""), ("hex", b""), ("gbk", b"\xff\xff"), ("utf-8", b"\xe9"), ("\xfc", b"")],
)
def test_undecodable_files_are_named(tmp_path: Path, encoding: str, content: bytes) -> None:
    path = write(tmp_path, "")
    head = f'<?xml version="1.0" encoding="{encoding}"?>'.encode()
    path.write_bytes(head + b"<!--" + content + b"-->" + path.read_bytes())
    with pytest.raises(DevkitError, match=r"2008_000001\.xml cannot be read in the encoding"):
        parse_annotation(path)


def test_a_bomb_of_entities_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "&e11;")
    larger = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    path.write_text(f'<!DOCTYPE a [<!ENTITY e0 "boom">{larger}]>{path.read_text()}')
    with pytest.raises(DevkitError, match=r"2008_000001\.xml is not well-formed"):
        parse_annotation(path)


@st.composite
def annotations(draw: st.DrawFn) -> Annotation:
    height, width = draw(st.integers(1, 600)), draw(st.integers(1, 600))
    boxes, flags = [], []
    for _ in range(draw(st.integers(0, 6))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append((x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))))
        flags.append((draw(st.integers(1, 20)), draw(st.booleans()), draw(st.booleans())))
    columns = np.array(flags, dtype=np.int64).reshape(-1, 3)
    return Annotation(
        image_id="any",
        height=height,
        width=width,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=columns[:, 0],
        difficult=columns[:, 1] == 1,
        truncated=columns[:, 2] == 1,
    )


@settings(max_examples=60, deadline=None)
@given(annotations())
def test_writing_and_reading_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, annotation: Annotation
) -> None:
    path = tmp_path_factory.mktemp("xml") / "any.xml"
    path.write_text(annotation_xml(annotation, folder="A & B"), encoding="utf-8")
    again = parse_annotation(path)
    for name in ("boxes", "labels", "difficult", "truncated"):
        np.testing.assert_array_equal(getattr(again, name), getattr(annotation, name))
    assert (again.height, again.width) == (annotation.height, annotation.width)
