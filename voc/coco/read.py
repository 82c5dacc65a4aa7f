"""Reading a COCO JSON: what is missing or wrong is said with the file and the annotation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcli.common.errors import DevkitError
from kdcli.voc.coco import rle
from kdcli.voc.coco.content import Box, CocoDocument, CocoImage, CocoObject, is_void

_PARTS = ("images", "annotations", "categories")


def read_document(path: Path) -> CocoDocument:
    """Read a JSON of COCO's object format (``instances_train2017.json`` and its like).

    Raises:
        DevkitError: it cannot be read, is of another format, or names what it does not hold.
    """
    parts = _parts(path)
    names: dict[Any, str] = {}
    regions: set[Any] = set()
    for number, item in enumerate(parts["categories"]):
        where = f"{path}: category {number}"
        if (key := _need(where, item, "id", (int, str))) in names:
            raise DevkitError(f"{where}: the id {key} is taken twice: give each its own.")
        names[key] = _need(where, item, "name", (str,))
        if item.get("isthing", 1) == 0:
            regions.add(key)
    images = {}
    for number, item in enumerate(parts["images"]):
        where = f"{path}: image {number}"
        image = CocoImage(
            _need(where, item, "file_name", (str,)),
            _side(where, item, "height"),
            _side(where, item, "width"),
        )
        if (key := _need(where, item, "id", (int, str))) in images:
            raise DevkitError(f"{where}: the id {key} is taken twice: give each its own.")
        images[key] = image
    _each_file_once(path, images)
    objects: dict[Any, list[CocoObject]] = {key: [] for key in images}
    for number, item in enumerate(parts["annotations"]):
        where = f"{path}: annotation {item.get('id', number) if isinstance(item, dict) else number}"
        owner = _known(where, item, "image_id", images)
        category = _known(where, item, "category_id", names)
        objects[owner].append(_object(where, item, names[category], category in regions))
    order = sorted(names, key=lambda key: (isinstance(key, str), key))
    ordered = tuple(dict.fromkeys(names[key] for key in order))
    return CocoDocument(
        path,
        ordered,
        images=tuple(images.values()),
        objects=tuple(map(tuple, objects.values())),
        has_things=len(regions) < len(names),
        has_regions=any(not is_void(names[key]) for key in regions),
    )


def _parts(path: Path) -> Mapping[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DevkitError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise DevkitError(f"{path} is not JSON: {error}.") from error
    expected = f"{path}: expected COCO's object format, a JSON with {', '.join(_PARTS)}"
    if isinstance(content, list):
        raise DevkitError(
            f"{expected}, got a list: results of a detector, perhaps, which say nothing of images "
            "and categories. Give the JSON that they belong to, its annotations replaced by them."
        )
    missing = [
        part for part in _PARTS
        if not isinstance(content, dict) or not isinstance(content.get(part), list)
    ]  # fmt: skip
    if missing:
        raise DevkitError(f"{expected}; it has no list {missing[0]!r}.")
    first = content["annotations"][0] if content["annotations"] else None
    if isinstance(first, dict) and "segments_info" in first:
        raise DevkitError(
            f"{expected}, got panoptic annotations: give the JSON of objects (instances_*.json)."
        )
    if not content["images"]:
        raise DevkitError(f"{path} names no image.")
    return {part: content[part] for part in _PARTS}


def _need(where: str, item: Any, key: str, kinds: tuple[type, ...]) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise DevkitError(f"{where}: expected {key!r}, a value of type {wanted}, got {value!r}.")
    return value


def _side(where: str, item: Any, key: str) -> int:
    value = _need(where, item, key, (int, float))
    if not math.isfinite(value) or value < 1 or value != int(value):
        raise DevkitError(f"{where}: expected {key!r} in pixels, 1 or more, got {value!r}.")
    return int(value)


def _known(where: str, item: Any, key: str, known: Mapping[Any, Any]) -> Any:
    value = _need(where, item, key, (int, str))
    if value not in known:
        what = {"image_id": "image", "category_id": "category"}[key]
        raise DevkitError(f"{where}: there is no {what} of the id {value!r}.")
    return value


def _each_file_once(path: Path, images: Mapping[Any, CocoImage]) -> None:
    seen: set[str] = set()
    for image in images.values():
        if image.file_name in seen:
            raise DevkitError(f"{path} names the image {image.file_name} twice: join the two.")
        seen.add(image.file_name)


def _object(where: str, item: dict[str, Any], name: str, region: bool) -> CocoObject:
    segmentation = item.get("segmentation")
    if segmentation is not None and not isinstance(segmentation, (list, dict)):
        raise DevkitError(f"{where}: expected polygons or run lengths, got {segmentation!r}.")
    try:
        segmentation = None if rle.is_empty(segmentation) else segmentation
    except TypeError as error:
        raise DevkitError(
            f"{where}: expected polygons, lists of x y x y ..., got {error}."
        ) from error
    box = _box(where, item.get("bbox"))
    if box is None and segmentation is None:
        raise DevkitError(f"{where}: has neither a bbox nor a segmentation: remove it.")
    score = item.get("score")
    return CocoObject(
        name=name,
        box=box,
        segmentation=segmentation,
        crowd=bool(item.get("iscrowd", 0)),
        region=region,
        score=float(score) if isinstance(score, (int, float)) else None,
    )


def _box(where: str, stated: Any) -> Box | None:
    if stated is None or stated == []:
        return None
    try:
        x, y, width, height = map(float, stated)
    except (TypeError, ValueError):
        x = y = width = height = math.nan
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) < 0:
        raise DevkitError(f"{where}: expected a bbox x, y, width, height, got {stated!r}.")
    return x, y, x + width, y + height
