"""Boxes of one photograph as VOC's XML states them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from kdcli.common.errors import DevkitError
from kdcli.voc.classes import VOC
from kdcli.voc.labels import LabelSet

_DECLARED = re.compile(rb"(?:\xef\xbb\xbf)?<\?xml[^>]*?encoding\s*=\s*[\"']([^\"'>]*)")


@dataclass(frozen=True, eq=False)
class Annotation:
    """Ground-truth boxes of one image, in the order of its XML file.

    Coordinates are x1 y1 x2 y2 in continuous pixels of the stored image, 0-based: VOC's 1-based
    inclusive integers (xmin, ymin, xmax, ymax) are (xmin - 1, ymin - 1, xmax, ymax) here, so that
    ``x2 - x1`` is the width in pixels.

    Attributes:
        image_id: the file name without ending.
        height: image height in pixels.
        width: image width in pixels.
        boxes: (n, 4) float32.
        labels: (n,) int64, 1.. in the order of the data set's labels.
        difficult: (n,) bool, objects that evaluation ignores.
        truncated: (n,) bool, objects of which the box shows a part only.
    """

    image_id: str
    height: int
    width: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def parse_annotation(path: Path, labels: LabelSet = VOC) -> Annotation:
    """Read one XML file of a devkit's ``Annotations`` folder, whose objects are of ``labels``.

    Coordinates may have decimals (a few of VOC 2012's have). A missing ``difficult`` or
    ``truncated`` means no. Whatever stands inside an object besides its name, flags and box
    (``part``, ``point``, ``actions``, ``pose``) is ignored.

    Raises:
        DevkitError: the XML is broken, lacks something, names a class that the labels lack, or
            holds a box that is inverted or leaves the image.
    """
    root = read_xml(path)
    height, width = (int(_number(path, root, f"size/{side}")) for side in ("height", "width"))
    if height < 1 or width < 1:
        raise DevkitError(
            f"{path}: expected a positive <size>, got width {width} and height {height}."
        )
    objects = root.findall("object")
    boxes = [_box(path, item, height, width) for item in objects]
    return Annotation(
        image_id=path.stem,
        height=height,
        width=width,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array([_label(path, item, labels) for item in objects], dtype=np.int64),
        difficult=np.array([_flag(path, item, "difficult") for item in objects], dtype=np.bool_),
        truncated=np.array([_flag(path, item, "truncated") for item in objects], dtype=np.bool_),
    )


def read_xml(path: Path) -> Element:
    """Parse a file; Python's codecs know more of the encodings that files declare than expat.

    Raises:
        DevkitError: it cannot be read, or is not well-formed XML.
    """
    try:
        content = path.read_bytes()
        declared = _DECLARED.match(content)
        if declared is None:
            return ElementTree.fromstring(content)
        return ElementTree.fromstring(content.decode(declared[1].decode("ascii")))
    except ElementTree.ParseError as error:
        raise DevkitError(
            f"{path} is not well-formed XML ({error}): restore it from the devkit."
        ) from error
    except OSError as error:
        raise DevkitError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, LookupError) as error:
        raise DevkitError(
            f"{path} cannot be read in the encoding that it declares ({error}): save it as UTF-8."
        ) from error


def _number(path: Path, element: Element, tag: str) -> float:
    text = element.findtext(tag)
    if text is None:
        raise DevkitError(f"{path}: <{element.tag}> lacks <{tag}>, which every VOC file has.")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise DevkitError(f"{path}: expected a number in <{tag}>, got {text.strip()!r}.")
    return value


def _flag(path: Path, element: Element, tag: str) -> bool:
    return element.find(tag) is not None and _number(path, element, tag) != 0


def _label(path: Path, element: Element, labels: LabelSet) -> int:
    name = (element.findtext("name") or "").strip()
    try:
        label = labels.id_of(name)
    except DevkitError as error:
        raise DevkitError(f"{path}: {error}") from None
    if label == 0:
        raise DevkitError(f"{path}: expected the class of an object, got {name!r}.")
    return label


def _box(path: Path, element: Element, height: int, width: int) -> tuple[float, ...]:
    x1, y1, x2, y2 = (
        _number(path, element, f"bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")
    )
    stated = f"box xmin {x1:g}, ymin {y1:g}, xmax {x2:g}, ymax {y2:g}"
    if x2 < x1 or y2 < y1:
        raise DevkitError(f"{path}: {stated} is inverted: expected xmin <= xmax, ymin <= ymax.")
    if x1 < 1 or y1 < 1 or x2 > width or y2 > height:
        raise DevkitError(
            f"{path}: {stated} leaves the image of {width} x {height} pixels; VOC's coordinates "
            f"are 1-based and inclusive (xmin 1 is the first column, xmax {width} the last)."
        )
    return x1 - 1, y1 - 1, x2, y2
