"""A data set's ground truth as a COCO JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.common.files import atomic_file
from kdcli.voc.annotation import Annotation
from kdcli.voc.coco import rle
from kdcli.voc.coco.content import VOID_NAME, CocoImage, CocoObject
from kdcli.voc.coco.write import write_document
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import surrounding_box
from kdcli.voc.labels import VOID


def write_truth(path: Path | str, devkit: Devkit, image_ids: Sequence[str]) -> None:
    """Write boxes and masks of images as one JSON, from which `import_coco` makes them again.

    Objects have masks where the image has an object mask that fits its boxes and class mask; else
    each class of the class mask is a region. Void is a region, too. Difficult objects are crowds.

    Args:
        path: of the JSON.
        devkit: the data set.
        image_ids: which images, in this order.

    Raises:
        DevkitError: a file of the data set is wrong.
        ResourceError: the JSON cannot be written.
    """
    images = [
        CocoImage(devkit.image_path(image_id).name, *devkit.image_size(image_id))
        for image_id in image_ids
    ]
    objects = (list(_objects(devkit, image_id)) for image_id in image_ids)
    description = f"Ground truth of {devkit.root}"
    with atomic_file(Path(path)) as file:
        write_document(file, images, objects, devkit.labels.all_names, description)


def _objects(devkit: Devkit, image_id: str) -> Iterator[CocoObject]:
    names = devkit.labels.all_names
    annotation, mask = devkit.annotation(image_id), devkit.mask(image_id)
    numbers = devkit.object_mask(image_id)
    if annotation is None or mask is None or not _fits(annotation, mask, numbers):
        numbers = None
    if annotation is not None:
        for row, label in enumerate(annotation.labels.tolist()):
            x1, y1, x2, y2 = annotation.boxes[row].tolist()
            pixels = None if numbers is None else rle.encode(numbers == row + 1)
            crowd = bool(annotation.difficult[row])
            yield CocoObject(names[label], (x1, y1, x2, y2), pixels, crowd)
    if mask is None:
        return
    if numbers is None:
        yield from regions_of(mask, names)
    if (mask == VOID).any():
        yield _region(VOID_NAME, mask == VOID)


def _fits(
    annotation: Annotation, mask: NDArray[np.uint8], numbers: NDArray[np.uint8] | None
) -> bool:
    """Whether object numbers (H, W) are those of the boxes, and of the classes of a mask (H, W)."""
    classes = np.zeros(256, np.int64)
    classes[VOID] = VOID
    labels = annotation.labels[: VOID - 1]
    classes[1 : len(labels) + 1] = labels
    return numbers is not None and bool(np.array_equal(classes[numbers], mask))


def regions_of(
    class_map: NDArray[np.integer], names: Sequence[str], scores: NDArray[np.float32] | None = None
) -> Iterator[CocoObject]:
    """Return the pixels of each class in a map (H, W) of class ids as one region.

    Args:
        class_map: background, 0, and void are no regions.
        names: of the classes by id.
        scores: (H, W) confidence of each pixel's class; a region's score is their mean.
    """
    for label in np.unique(class_map).tolist():
        if 0 < label < len(names):
            where = class_map == label
            score = None if scores is None else float(scores[where].mean())
            yield _region(names[label], where, score)


def _region(name: str, where: NDArray[np.bool_], score: float | None = None) -> CocoObject:
    box = surrounding_box(where)
    return CocoObject(name, box, rle.encode(where), region=True, score=score)
