"""A VOC devkit on disk: lists, photographs, boxes, masks, and which image has which."""

from __future__ import annotations

import codecs
import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.common.errors import DevkitError
from kdcli.common.files import write_text
from kdcli.voc import images as pictures
from kdcli.voc.annotation import Annotation, parse_annotation
from kdcli.voc.classes import VOC
from kdcli.voc.colours import PALETTE
from kdcli.voc.folder import file_of, files_by_id
from kdcli.voc.labels import LabelSet
from kdcli.voc.labels_file import LABELS_FILE, read_labels

CLASS_MASKS = "SegmentationClass"
AUGMENTED_MASKS = "SegmentationClassAug"
OBJECT_MASKS = "SegmentationObject"
_MASK_FALLBACK = {AUGMENTED_MASKS: CLASS_MASKS}
"""The augmented set adds masks to VOC's; some copies of it hold the added ones only."""
_AUGMENTED_LIST = re.compile(r"(?i:aug(mented)?)(?![a-z])")
"""SegmentationAug, train_aug, trainaug; not august."""
_LEADS_OUT = re.compile(r"[/\\\0]|\.\.")


def mask_colours(folder: str, labels: LabelSet) -> NDArray[np.uint8]:
    """Return the palette of a folder's masks: the labels' colours; object numbers keep VOC's."""
    return PALETTE if folder == OBJECT_MASKS else labels.palette


def write_list(root: Path, name: str, ids: Iterable[str]) -> None:
    """Write the list ``name`` ("Main/train") of a devkit at ``root``.

    Raises:
        ResourceError: it cannot be written.
    """
    write_text(root / "ImageSets" / f"{name}.txt", "".join(f"{each}\n" for each in ids))


@dataclass(frozen=True)
class Availability:
    """Which images of a list carry ground truth.

    Attributes:
        boxes: ids of the images with an XML file.
        masks: ids of the images with a class mask.
        objects: ids of the images with boxes and an object mask.
    """

    boxes: frozenset[str]
    masks: frozenset[str]
    objects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Devkit:
    """One year of PASCAL VOC, or anything in its layout.

    Attributes:
        root: the folder that holds ``JPEGImages``, ``Annotations``, ``ImageSets`` and the masks.
        labels: what its boxes and masks may be of.
    """

    root: Path
    labels: LabelSet = VOC

    @classmethod
    def open(cls, path: Path | str, labels: LabelSet | None = None) -> Devkit:
        """Find the devkit at ``path``: the folder that holds JPEGImages, or up to two levels above.

        Args:
            path: where to look.
            labels: its labels; by default those of its ``labels.toml``, which lies beside
                JPEGImages, or VOC's if there is none.

        Raises:
            DevkitError: there is none, or more than one; or its ``labels.toml`` is wrong.
        """
        path = Path(path)
        if not path.is_dir():
            raise DevkitError(f"Expected the folder of a VOC devkit, got {path}: no such folder.")
        level = [path]
        for _ in range(3):
            # By resolved path: a link beside its target is one devkit, not two.
            found = list(
                {
                    folder.resolve(): folder
                    for folder in reversed(level)
                    if (folder / "JPEGImages").is_dir()
                }.values()
            )[::-1]
            if len(found) == 1:
                return cls(found[0], labels or _own_labels(found[0]))
            if found:
                raise DevkitError(
                    f"Expected one devkit in {path}, got {len(found)}: name one of "
                    f"{', '.join(str(folder) for folder in found)}."
                )
            level = [child for folder in level for child in _subfolders(folder)]
        raise DevkitError(_not_a_devkit(path))

    def lists(self) -> tuple[str, ...]:
        """Return the names of all lists, e.g. ``"Segmentation/train"``, sorted."""
        folder = self.root / "ImageSets"
        files = sorted(file for file in folder.rglob("*.txt") if file.is_file())
        return tuple(file.relative_to(folder).with_suffix("").as_posix() for file in files)

    def image_ids(self, list_name: str) -> tuple[str, ...]:
        """Return the image ids of ``ImageSets/<list_name>.txt`` in the file's order.

        Main's lists of one class (``Main/cat_train``) hold an id and a flag a line: images that
        show the class (flag 1, or 0 where all of its objects are difficult) are returned, those
        that do not (flag -1) are left out.

        Raises:
            DevkitError: the list is missing, empty or malformed, names an image twice, or names
                an image without a photograph or with several.
        """
        path = self.list_path(list_name)
        ids = parse_list(path)
        repeated = [name for name, count in Counter(ids).items() if count > 1]
        if repeated:
            raise DevkitError(
                f"{path} names {len(repeated)} image(s) more than once, first {repeated[0]!r}: "
                "remove the repetitions."
            )
        photographs = self._having("JPEGImages", ".jpg", ids)
        missing = [name for name in ids if name not in photographs]
        if missing:
            raise DevkitError(
                f"{path} names {len(missing)} of {len(ids)} image(s) without a photograph, first "
                f"{self.image_path(missing[0])}: restore the photographs or shorten the list."
            )
        return ids

    def image_path(self, image_id: str) -> Path:
        """Return the path of an image's photograph, whether or not it exists."""
        return self._file("JPEGImages", image_id, ".jpg")

    def annotation_path(self, image_id: str) -> Path:
        """Return the path of an image's XML file, whether or not it exists."""
        return self._file("Annotations", image_id, ".xml")

    def mask_path(self, image_id: str, folder: str = CLASS_MASKS) -> Path:
        """Return the path of an image's mask in a folder, whether or not it exists."""
        return self._file(folder, image_id, ".png")

    def read_image(self, image_id: str) -> NDArray[np.uint8]:
        """Return a photograph as (H, W, 3) uint8 RGB; see `voc.images.read_photograph`."""
        return pictures.read_photograph(self.image_path(image_id))

    def image_size(self, image_id: str) -> tuple[int, int]:
        """Return (height, width) of a photograph from its header alone."""
        return pictures.read_size(self.image_path(image_id))

    def annotation(self, image_id: str, size: tuple[int, int] | None = None) -> Annotation | None:
        """Return an image's boxes, or None if it has no XML file and so no detection truth.

        Args:
            image_id: Which image.
            size: (height, width) of the photograph if known; saves reading its header.

        Raises:
            DevkitError: the XML is wrong in itself or states another size than the photograph's.
        """
        path = self.annotation_path(image_id)
        if not path.is_file():
            return None
        annotation = parse_annotation(path, self.labels)
        self._check_size(path, image_id, annotation.height, annotation.width, size)
        return annotation

    def mask(
        self,
        image_id: str,
        folder: str = CLASS_MASKS,
        size: tuple[int, int] | None = None,
    ) -> NDArray[np.uint8] | None:
        """Return an image's mask, or None if it has none in ``folder``.

        An image without a mask in SegmentationClassAug keeps its mask from SegmentationClass.

        Args:
            image_id: Which image.
            folder: Of the masks.
            size: (height, width) of the photograph if known; saves reading its header.

        Returns:
            (H, W) uint8: ids of ``labels``, 255 for void (object numbers from SegmentationObject).

        Raises:
            DevkitError: the PNG is broken, of another size than the photograph, or a class mask
                holds something else than class ids.
        """
        path = self.mask_path(image_id, folder)
        if not path.is_file():
            fallback = _MASK_FALLBACK.get(folder)
            return None if fallback is None else self.mask(image_id, fallback, size)
        of_classes = folder != OBJECT_MASKS
        mask = pictures.read_mask(path, mask_colours(folder, self.labels))
        height, width = mask.shape
        self._check_size(path, image_id, height, width, size)
        if of_classes:
            pictures.check_class_ids(mask, path, self.labels.size)
        return mask

    def object_mask(self, image_id: str) -> NDArray[np.uint8] | None:
        """Return an image's object numbers, 1.. in the order of its XML; else like `mask`."""
        return self.mask(image_id, OBJECT_MASKS)

    def has_boxes(self, image_id: str) -> bool:
        """Say whether an image has an XML file."""
        return self.annotation_path(image_id).is_file()

    def has_mask(self, image_id: str, folder: str = CLASS_MASKS) -> bool:
        """Say whether `mask` would find a mask."""
        folders = (folder, _MASK_FALLBACK.get(folder, folder))
        return any(self.mask_path(image_id, each).is_file() for each in folders)

    def availability(self, ids: Collection[str], mask_folder: str = CLASS_MASKS) -> Availability:
        """Return which of ``ids`` have boxes and masks of each kind, by the folders' listings."""
        masks = self._having(mask_folder, ".png", ids)
        if mask_folder in _MASK_FALLBACK:
            masks |= self._having(_MASK_FALLBACK[mask_folder], ".png", ids)
        boxes = self._having("Annotations", ".xml", ids)
        return Availability(boxes, masks, boxes & self._having(OBJECT_MASKS, ".png", ids))

    def _file(self, folder: str, image_id: str, ending: str) -> Path:
        _check_id(image_id, self.root)
        return file_of(self.root / folder, image_id, ending)

    def _having(self, folder: str, ending: str, ids: Collection[str]) -> frozenset[str]:
        """Return which of ``ids`` have a file in a folder; those with several are an error."""
        files = files_by_id(self.root / folder, ending)
        for image_id in ids:
            if len(files.get(image_id, ())) > 1:
                self._file(folder, image_id, ending)
        return frozenset(image_id for image_id in ids if image_id in files)

    def list_path(self, list_name: str) -> Path:
        """Return the path of a list's file.

        Raises:
            DevkitError: there is none; the message names those there are.
        """
        path = self.root / "ImageSets" / f"{list_name}.txt"
        if ".." not in Path(list_name).parts and path.is_file():
            return path
        lists = self.lists()
        if not lists:
            raise DevkitError(
                f"Expected the list {path}, but {self.root / 'ImageSets'} holds no lists."
            )
        ends = [name for name in lists if name.endswith(f"/{list_name}")]
        close = ends or difflib.get_close_matches(list_name, lists, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise DevkitError(
            f"Expected the list {path}, but it does not exist.{hint} Lists: {_shown(lists)}."
        )

    def _check_size(
        self,
        path: Path,
        image_id: str,
        height: int,
        width: int,
        known: tuple[int, int] | None = None,
    ) -> None:
        expected = known or self.image_size(image_id)
        if (height, width) != expected:
            raise DevkitError(
                f"{path} is for {width} x {height} pixels, but {self.image_path(image_id)} has "
                f"{expected[1]} x {expected[0]}: one of the two belongs to another picture."
            )


def mask_folder(list_name: str) -> str:
    """Return the folder of class masks that belongs to a list: the augmented one's if it says so.

    >>> mask_folder("SegmentationAug/train"), mask_folder("Segmentation/train_aug")
    ('SegmentationClassAug', 'SegmentationClassAug')
    >>> mask_folder("Main/val")
    'SegmentationClass'
    """
    return AUGMENTED_MASKS if _AUGMENTED_LIST.search(list_name) else CLASS_MASKS


def _own_labels(root: Path) -> LabelSet:
    path = root / LABELS_FILE
    return read_labels(path) if path.exists() else VOC


def parse_list(path: Path) -> tuple[str, ...]:
    """Return the image ids of a list's file as it states them, repeated ones too.

    Raises:
        DevkitError: it cannot be read, is empty or malformed.
    """
    try:
        lines = _decoded(path.read_bytes()).splitlines()
    except OSError as error:
        raise DevkitError(f"Cannot read the list {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DevkitError(f"Cannot read the list {path}: {error}; save it as UTF-8.") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    fields = {len(row) for _, row in rows}
    if not rows:
        raise DevkitError(f"Expected image ids in {path}, one a line, got an empty list.")
    for number, row in rows:
        if fields not in ({1}, {2}) or (len(row) == 2 and row[1] not in ("1", "0", "-1")):
            raise DevkitError(
                f"{path}, line {number}: expected one image id a line (or, in every line, an id "
                f"and a flag 1, 0 or -1), got {' '.join(row)!r}."
            )
        _check_id(row[0], path)
    return tuple(row[0] for _, row in rows if row[1:] != ["-1"])


def _decoded(text: bytes) -> str:
    """Decode UTF-8, or the UTF-16 that PowerShell writes, known by its mark."""
    marked = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return text.decode("utf-16" if marked else "utf-8-sig")


def _check_id(image_id: str, source: Path) -> None:
    """Refuse ids that would lead out of the devkit's folders."""
    if image_id in ("", ".") or _LEADS_OUT.search(image_id):
        raise DevkitError(
            f"{source}: expected an image id such as 2008_000008, got {image_id!r}: an id is a "
            "file name without folder and ending."
        )


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(
            child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
        )
    except PermissionError:
        return []


def _not_a_devkit(path: Path) -> str:
    message = (
        f"Expected a VOC devkit in {path}: a folder JPEGImages in it or at most two levels below "
        f"(as in VOCdevkit/VOC2012/JPEGImages). "
    )
    for parent in path.resolve().parents[:2]:
        if (parent / "JPEGImages").is_dir():
            return f"{message}It lies inside one: use {parent}."
    names = sorted(child.name for child in path.iterdir())
    return f"{message}There lies {_shown(names) if names else 'nothing'}."


def _shown(names: Collection[str], limit: int = 12) -> str:
    listed = ", ".join(list(names)[:limit])
    return f"{listed} and {len(names) - limit} more" if len(names) > limit else listed
