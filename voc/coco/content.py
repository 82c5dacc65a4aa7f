"""What a COCO JSON says, as plain frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcli.common.names import folded

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2, 0-based continuous pixels; the JSON's are x, y, width, height."""


VOID_NAME = "void"
"""A category of regions that are nothing in particular: void in masks."""


def is_void(name: str) -> bool:
    """Whether a category's name says that its pixels are void."""
    return folded(name) == VOID_NAME


@dataclass(frozen=True)
class CocoImage:
    """A photograph as the JSON names it; height and width in pixels."""

    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoObject:
    """One annotation.

    Attributes:
        name: of its category.
        box: None where the JSON states none.
        segmentation: as the JSON states it: polygons (a list of lists x y x y ...), or run lengths
            (a dict with ``size`` and ``counts``); None without.
        crowd: whether it is an area with many objects of the category, ``iscrowd``.
        region: whether it is not one object, but all pixels of a category (``isthing`` of the
            category is 0, as in COCO's panoptic categories).
        score: confidence 0..1; None in ground truth.
    """

    name: str
    box: Box | None
    segmentation: Any = None
    crowd: bool = False
    region: bool = False
    score: float | None = None


@dataclass(frozen=True)
class CocoDocument:
    """A whole JSON.

    Attributes:
        path: where it was read from.
        names: of its categories, in the order of their ids, each once.
        images: its photographs.
        objects: those of each photograph, in the order of ``images``.
        has_things: whether some category is of objects.
        has_regions: whether some category but void is of regions.
    """

    path: Path
    names: tuple[str, ...]
    images: Sequence[CocoImage]
    objects: Sequence[Sequence[CocoObject]]
    has_things: bool
    has_regions: bool

    @cached_property
    def has_masks(self) -> bool:
        """Whether any object that is no crowd and no region has a segmentation."""
        return any(
            each.segmentation is not None and not each.crowd and not each.region
            for objects in self.objects
            for each in objects
        )

    def by_file(self) -> Mapping[str, tuple[CocoImage, Sequence[CocoObject]]]:
        """Return image and objects by file name."""
        pairs = zip(self.images, self.objects, strict=True)
        return {image.file_name: (image, objects) for image, objects in pairs}
