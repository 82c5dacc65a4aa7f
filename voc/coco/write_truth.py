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
from kdcli.voc.colours import VOID
from kdcli.voc.devkit import OBJECT_MASKS, Devkit


def write_truth(
    path: Path | str, devkit: Devkit, image_ids: Sequence[str], names: Sequence[str]
) -> None:
    """Write boxes and masks of images as one JSON, from which `import_coco` makes them again.

    Objects have masks where the image has an object mask; with a class mask alone, each of its
    classes is a region. Void is a region, too. Difficult objects become crowds.

    Args:
        path: of the JSON.
        devkit: the data set.
        image_ids: which images, in this order.
        names: of its classes by id, background first.

    Raises:
        DevkitError: a file of the data set is wrong.
        ResourceError: the JSON cannot be written.
    """
    sizes = (devkit.image_size(image_id) for image_id in image_ids)
    images = [
        CocoImage(devkit.image_path(image_id).name, *size)
        for image_id, size in zip(image_ids, sizes, strict=True)
    ]
    regions = any(devkit.has_mask(each) and not _numbered(devkit, each) for each in image_ids)
    objects = (list(_objects(devkit, image_id, names)) for image_id in image_ids)
    with atomic_file(Path(path)) as file:
        write_document(
            file,
            images,
            objects,
            names,
            f"Ground truth of {devkit.root}",
            regions=regions,
            void=True,
        )


def _numbered(devkit: Devkit, image_id: str) -> bool:
    return devkit.has_mask(image_id, OBJECT_MASKS) and devkit.has_boxes(image_id)


def _objects(devkit: Devkit, image_id: str, names: Sequence[str]) -> Iterator[CocoObject]:
    annotation, mask = devkit.annotation(image_id), devkit.mask(image_id)
    numbers = devkit.object_mask(image_id)
    if annotation is not None:
        yield from _boxes(annotation, numbers, names)
    if mask is None:
        return
    if annotation is None or numbers is None:
        yield from regions_of(mask, names)
    if (mask == VOID).any():
        yield _region(VOID_NAME, mask == VOID)


def _boxes(
    annotation: Annotation, numbers: NDArray[np.uint8] | None, names: Sequence[str]
) -> Iterator[CocoObject]:
    for row, (box, label) in enumerate(
        zip(annotation.boxes.tolist(), annotation.labels, strict=True)
    ):
        x1, y1, x2, y2 = box
        pixels = None if numbers is None else rle.encode(numbers == row + 1)
        crowd = bool(annotation.difficult[row])
        yield CocoObject(names[label], (x1, y1, x2, y2), pixels, crowd)


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
    box = rle.surrounding_box(where)
    return CocoObject(name, box, rle.encode(where), region=True, score=score)
