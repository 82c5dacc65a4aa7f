"""One image of a data set: its photograph, XML and masks, looked at without being trusted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.voc.annotation import Annotation, parse_annotation, read_xml
from kdcli.voc.check.problems import Finding, Level, Problem
from kdcli.voc.devkit import AUGMENTED_MASKS, CLASS_MASKS, OBJECT_MASKS, Devkit, mask_colours
from kdcli.voc.images import orientation, read_mask, read_photograph, read_size
from kdcli.voc.instances import match_objects
from kdcli.voc.labels import VOID

SMALL = 2
"""Sides of a box, in pixels, below which it is worth a look."""
_END_OF_JPEG = b"\xff\xd9"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Facts:
    """What is known of one image.

    Attributes:
        image_id: which.
        sha256: of the photograph's file; empty if it cannot be read.
        has_boxes: whether there is an XML file.
        has_mask: whether there is a class mask.
        classes: names in the XML and ids in the masks that stand for a class of the data set.
        findings: what is wrong.
    """

    image_id: str
    sha256: str
    has_boxes: bool
    has_mask: bool
    classes: frozenset[str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class RawObject:
    """An object as its XML states it, right or wrong.

    Attributes:
        name: of its class.
        corners: xmin, ymin, xmax, ymax, 1-based and inclusive; None if they are no numbers.
    """

    name: str
    corners: tuple[float, float, float, float] | None


def look_at(devkit: Devkit, image_id: str) -> Facts:
    """Look at an image's files; the photograph is decoded only if its end is missing.

    Args:
        devkit: the data set.
        image_id: one with a photograph.
    """
    look = _Look(devkit, image_id)
    sha256 = look.photograph()
    has_boxes = look.boxes()
    masks = [look.mask(folder) for folder in (CLASS_MASKS, AUGMENTED_MASKS, OBJECT_MASKS)]
    classes, findings = frozenset(look.classes), tuple(look.findings)
    return Facts(image_id, sha256, has_boxes, any(masks[:2]), classes, findings)


def raw_objects(path: Path) -> tuple[tuple[int, int] | None, list[RawObject]]:
    """Read what an XML file states: (height, width), None if it states none, and its objects.

    Raises:
        DevkitError: it is not well-formed XML.
    """
    root = read_xml(path)
    height, width = (_number(root, f"size/{side}") for side in ("height", "width"))
    size = None if height is None or width is None else (int(height), int(width))
    return size, [_raw_object(item) for item in root.findall("object")]


def _raw_object(item: Element) -> RawObject:
    corners = [_number(item, f"bndbox/{corner}") for corner in _CORNERS]
    known = [value for value in corners if value is not None]
    name = (item.findtext("name") or "").strip()
    return RawObject(name, (known[0], known[1], known[2], known[3]) if len(known) == 4 else None)


def _number(element: Element, tag: str) -> float | None:
    try:
        value = float(element.findtext(tag) or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


class _Look:
    """What a look at one image finds, file by file."""

    def __init__(self, devkit: Devkit, image_id: str) -> None:
        self.devkit, self.image_id, self.labels = devkit, image_id, devkit.labels
        self.size: tuple[int, int] | None = None
        self.annotation: Annotation | None = None
        self.classes: set[str] = set()
        self.findings: list[Finding] = []

    def photograph(self) -> str:
        """Return the file's digest, empty if it cannot be read; note its (height, width)."""
        path = self.devkit.root / "JPEGImages" / self.image_id
        try:
            path = self.devkit.image_path(self.image_id)
            content = path.read_bytes()
        except DevkitError as error:
            self._found(Problem.SEVERAL_FILES, str(error))
            return ""
        except OSError as error:
            self._found(Problem.PHOTOGRAPH, error.strerror or str(error))
            return ""
        try:
            size = read_size(path)
            if not content.endswith(_END_OF_JPEG):  # cut off, or with something behind its end
                read_photograph(path)
        except DevkitError as error:
            self._found(Problem.PHOTOGRAPH, str(error).removeprefix(str(path)).lstrip(" :"))
        else:
            self.size = size
            if b"Exif" in content[:4096] and (turned := _orientation(path)) not in (0, 1):
                self._found(Problem.EXIF, f"orientation {turned}")
        return hashlib.sha256(content).hexdigest()

    def boxes(self) -> bool:
        """Look at the XML; return whether there is one."""
        try:
            path = self.devkit.annotation_path(self.image_id)
            if not path.is_file():
                return False
            stated, objects = raw_objects(path)
        except DevkitError as error:
            self._found(Problem.XML, str(error))
            return True
        before = len(self.findings)
        if stated is None or min(stated) < 1:
            self._found(Problem.XML, "without the image's <size>")
        elif self.size is not None and stated != self.size:
            self._found(Problem.XML_SIZE, _sizes(stated, self.size))
        for thing in objects:
            if thing.name in self.labels.names:
                self.classes.add(thing.name)
            else:
                self._found(Problem.CLASS_NAME, thing.name or "no name")
            for problem, detail in _corner_problems(thing, stated or self.size):
                self._found(problem, detail)
        if not any(found.problem.level is Level.ERROR for found in self.findings[before:]):
            self._parse(path, clean=len(self.findings) == before)
        return True

    def _parse(self, path: Path, clean: bool) -> None:
        """Read the XML as training does, which stops at it; keep it if its boxes are ``clean``."""
        try:
            annotation = parse_annotation(path, self.labels)
        except DevkitError as error:
            self._found(Problem.XML, str(error))
        else:
            self.annotation = annotation if clean else None

    def mask(self, folder: str) -> bool:
        """Look at the mask in a folder; return whether there is one."""
        try:
            path = self.devkit.mask_path(self.image_id, folder)
            if not path.is_file():
                return False
            of_classes = folder != OBJECT_MASKS
            mask = read_mask(path, mask_colours(folder, self.labels))
        except DevkitError as error:
            self._found(Problem.MASK, str(error))
            return True
        if self.size is not None and mask.shape != self.size:
            self._found(Problem.MASK_SIZE, f"{folder}: {_sizes(mask.shape, self.size)}")
        elif not of_classes and self.annotation is not None:
            unmatched = match_objects(mask, self.annotation.boxes).unmatched
            if unmatched:
                self._found(Problem.OBJECT_WITHOUT_BOX, f"{unmatched} in {folder}")
        if not of_classes:
            return True
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:VOID])
        known = values < self.labels.size
        self.classes.update(self.labels.all_names[value] for value in values[known] if value)
        if not known.all():
            listed = ", ".join(map(str, values[~known][:5]))
            self._found(Problem.MASK_VALUE, f"{folder}: {listed}")
        return True

    def _found(self, problem: Problem, detail: str) -> None:
        self.findings.append(Finding(problem, self.image_id, detail))


def _corner_problems(
    thing: RawObject, size: tuple[int, int] | None
) -> Iterator[tuple[Problem, str]]:
    """Say what is wrong with an object's box in an image of (height, width) pixels."""
    if thing.corners is None:
        yield Problem.XML, f"{thing.name} without a box of four numbers"
        return
    x1, y1, x2, y2 = thing.corners
    stated = f"{thing.name}: {x1:g} {y1:g} {x2:g} {y2:g}"
    if x2 < x1 or y2 < y1:
        yield Problem.BOX_INVERTED, stated
    elif min(x2 - x1, y2 - y1) + 1 < SMALL:
        yield Problem.BOX_SMALL, stated
    if size is not None and (min(x1, y1) < 1 or x2 > size[1] or y2 > size[0]):
        yield Problem.BOX_OUTSIDE, f"{stated}; image {size[1]} x {size[0]}"


def _orientation(path: Path) -> int:
    """Return EXIF's orientation of a JPEG, 0 if it states none; 1 is upright."""
    try:
        with Image.open(path) as picture:
            return orientation(picture)
    except (OSError, SyntaxError, ValueError):  # the pixels are fine, its EXIF block is not
        return 0


def _sizes(stated: tuple[int, ...], size: tuple[int, int]) -> str:
    turned = ", turned by EXIF?" if stated == size[::-1] != size else ""
    return f"{stated[1]} x {stated[0]}, photograph {size[1]} x {size[0]}{turned}"
