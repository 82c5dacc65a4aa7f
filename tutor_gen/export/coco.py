"""Labels of a store as COCO's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdcli.common.files import atomic_file
from kdcli.common.folders import refuse_existing
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.export.labels import ImageLabels, StoreLabels
from kdcli.tutor_gen.tutors.tutor import name_of
from kdcli.voc.coco import rle
from kdcli.voc.coco.content import CocoImage, CocoObject
from kdcli.voc.coco.write import write_document
from kdcli.voc.coco.write_truth import regions_of


def export_coco(out: Path, labels: StoreLabels, progress: Progress = no_progress) -> None:
    """Write objects with scores, and with masks where the store keeps them, as one JSON.

    Without masks of objects, each class of a label map is a region: one annotation of a category
    whose ``isthing`` is 0, with run lengths, and as score its pixels' mean confidence.

    Raises:
        ResourceError: ``out`` exists, or cannot be written.
    """
    refuse_existing(out)
    ids = labels.image_ids
    entries = (labels.cache.entry(image_id) for image_id in ids)
    images = [
        CocoImage(labels.photograph(entry.image_id).name, entry.height, entry.width)
        for entry in entries
    ]
    names = labels.cache.class_names
    objects = (list(_objects(labels.of(each), names)) for each in progress(ids, len(ids), "images"))
    settings = labels.cache.settings
    tutors = " and ".join(name_of(settings[role]) for role in sorted(labels.cache.roles))
    things = labels.source is not None
    with atomic_file(out) as file:
        write_document(file, images, objects, names, f"Said by {tutors}", things=things)


def _objects(image: ImageLabels, names: tuple[str, ...]) -> Iterator[CocoObject]:
    if image.objects is not None:
        for row in range(len(image.objects)):
            x1, y1, x2, y2 = image.objects.boxes[row].tolist()
            runs = None if image.masks is None else rle.encode(image.masks[row])
            name, score = names[image.objects.labels[row]], float(image.objects.scores[row])
            yield CocoObject(name, (x1, y1, x2, y2), runs, score=score)
    if image.masks is None and image.class_map is not None:
        yield from regions_of(image.class_map, names, image.confidences)
