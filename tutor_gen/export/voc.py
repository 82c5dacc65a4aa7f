"""Labels of a store as a data set in VOC's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.common.detections import Detections
from kdcli.common.files import link, write_text
from kdcli.common.folders import new_folder
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.export.labels import ImageLabels, StoreLabels
from kdcli.voc.annotation import Annotation
from kdcli.voc.annotation_xml import annotation_xml
from kdcli.voc.devkit import CLASS_MASKS, OBJECT_MASKS, mask_colours, write_list
from kdcli.voc.images import write_mask
from kdcli.voc.labels import VOID, LabelSet
from kdcli.voc.labels_file import LABELS_FILE, write_labels


def export_voc(out: Path, labels: StoreLabels, progress: Progress = no_progress) -> None:
    """Write photographs (links), XML, masks, lists and labels; `Devkit.open` reads them.

    Boxes are rounded to whole pixels, as other readers of VOC's XML expect. Class masks are those
    of the label map; object masks are there where the store keeps the masks of its objects, and
    an image has at most 254.

    Raises:
        ResourceError: ``out`` holds something, or cannot be written.
    """
    ids = labels.image_ids
    names = labels.cache.class_names
    known = labels.devkit.labels  # which knows colours, too
    own = known if known.all_names == names else LabelSet(names[1:])
    with new_folder(out) as folder:
        for part in ("JPEGImages", "Annotations", CLASS_MASKS, OBJECT_MASKS):
            (folder / part).mkdir()
        for image_id in progress(ids, len(ids), "images"):
            link(folder / "JPEGImages" / f"{image_id}.jpg", labels.photograph(image_id))
            _write_image(folder, out.name, labels.of(image_id), own)
        for name, members in labels.lists.items():
            write_list(folder, name, members)
        write_labels(folder / LABELS_FILE, own)


def _write_image(folder: Path, title: str, image: ImageLabels, labels: LabelSet) -> None:
    file = f"{image.image_id}.png"
    if image.class_map is not None:
        write_mask(folder / CLASS_MASKS / file, image.class_map, mask_colours(CLASS_MASKS, labels))
    if image.objects is None:
        return
    count = len(image.objects)
    # The surest first, as other programs that show a few expect; masks are numbered like boxes.
    objects = image.objects.take(np.arange(count)[::-1])
    xml = annotation_xml(
        _annotation(image, objects),
        title,
        image.class_map is not None,
        labels,
        database="Tutors",
        scores=objects.scores.tolist(),
    )
    write_text(folder / "Annotations" / f"{image.image_id}.xml", xml)
    if image.masks is not None and count < VOID:
        numbers = np.zeros((image.height, image.width), np.uint8)
        for number, mask in zip(range(count, 0, -1), image.masks, strict=True):
            numbers[mask] = number
        write_mask(folder / OBJECT_MASKS / file, numbers)


def _annotation(image: ImageLabels, objects: Detections) -> Annotation:
    none = np.zeros(len(objects), np.bool_)
    boxes = whole_boxes(objects.boxes, image.height, image.width)
    labels = objects.labels.astype(np.int64)
    return Annotation(image.image_id, image.height, image.width, boxes, labels, none, none)


def whole_boxes(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Round boxes (n, 4) x1 y1 x2 y2 to whole pixels, at least one wide and high, in the image."""
    rounded = np.rint(boxes)
    rounded[:, :2] = np.clip(rounded[:, :2], 0, np.array([width, height], np.float32) - 1)
    rounded[:, 2:] = np.maximum(rounded[:, 2:], rounded[:, :2] + 1)
    return rounded
