"""Writing a COCO JSON, annotation by annotation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from kdcli.voc.coco import rle
from kdcli.voc.coco.content import VOID_NAME, CocoImage, CocoObject
from kdcli.voc.labels import VOID

REGIONS_FROM = 1000
"""Categories of regions have the id of their class plus this: a class of objects has one, too."""


def write_document(
    file: BinaryIO,
    images: Sequence[CocoImage],
    objects: Iterable[Sequence[CocoObject]],
    names: Sequence[str],
    description: str,
    *,
    things: bool = True,
) -> None:
    """Write a JSON that pycocotools' ``COCO(...)`` reads; its ids of images are 1, 2, ...

    Where regions occur, the classes are categories of regions, too, with ``isthing`` 0.

    Args:
        file: where to.
        images: all of them.
        objects: those of each image, in their order; taken one image at a time.
        names: of the classes by id, background first, which is no category.
        description: what the JSON says of itself.
        things: whether the classes are categories of objects.
    """
    ids = {name: label for label, name in enumerate(names) if label} | {VOID_NAME: VOID}
    head = {
        "info": {"description": description},
        "licenses": [],
        "images": [
            {"id": n, "file_name": i.file_name, "height": i.height, "width": i.width}
            for n, i in enumerate(images, start=1)
        ],
    }
    file.write(json.dumps(head, indent=1)[:-2].encode() + b',\n "annotations": [')
    regions: set[str] = set()
    number = 0
    for image_number, its in enumerate(objects, start=1):
        for each in its:
            number += 1
            label = ids[each.name] + each.region * REGIONS_FROM
            regions |= {each.name} if each.region else set()
            item = _annotation(each, number, image_number, label)
            file.write((b",\n  " if number > 1 else b"\n  ") + json.dumps(item).encode())
    of_regions = names[1:] if regions - {VOID_NAME} else ()
    categories = list(_categories(names[1:] if things else (), "object", 1, ids))
    categories += _categories(of_regions, "region", 0, ids)
    categories += _categories(regions & {VOID_NAME}, "region", 0, ids)
    file.write(b'\n ],\n "categories": ' + json.dumps(categories, indent=1).encode() + b"\n}\n")


def _categories(
    names: Iterable[str], kind: str, isthing: int, ids: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    for name in names:
        number = ids[name] + (0 if isthing else REGIONS_FROM)
        yield {"id": number, "name": name, "supercategory": kind, "isthing": isthing}


def _annotation(each: CocoObject, number: int, image: int, category: int) -> dict[str, Any]:
    """Return one annotation; its segmentation, if any, has to be run lengths."""
    x1, y1, x2, y2 = each.box or (0.0, 0.0, 0.0, 0.0)
    item: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": int(each.crowd),
    }
    if each.segmentation is not None:
        item |= {"segmentation": each.segmentation, "area": rle.area(each.segmentation)}
    if each.score is not None:
        item["score"] = each.score
    return item
