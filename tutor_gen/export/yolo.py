"""Labels of a store as YOLO's text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from kdcli.common.errors import CacheError
from kdcli.common.files import link, write_text
from kdcli.common.folders import new_folder
from kdcli.common.progress import Progress, no_progress
from kdcli.tutor_gen.export.labels import StoreLabels


def export_yolo(out: Path, labels: StoreLabels, progress: Progress = no_progress) -> None:
    """Write ``images/LIST`` (links), ``labels/LIST`` and ``data.yaml``.

    A line of a text file is an object: class (from 0, background does not count), then centre and
    size of its box in shares of the image's. The format has no place for scores.

    Raises:
        CacheError: the store has no objects, or two lists have the same last name.
        ResourceError: ``out`` holds something, or cannot be written.
    """
    if labels.source is None:
        raise CacheError(f"{labels.cache.path}: has no objects, and YOLO's text is of boxes alone.")
    lists = {name.rpartition("/")[2]: ids for name, ids in labels.lists.items()}
    if len(lists) < len(labels.lists):
        raise CacheError(
            f"Of {', '.join(labels.lists)} two would be in one folder: export one of them."
        )
    with new_folder(out) as folder:
        for name, ids in lists.items():
            images, texts = folder / "images" / name, folder / "labels" / name
            images.mkdir(parents=True)
            texts.mkdir(parents=True)
            for image_id in progress(ids, len(ids), name):
                link(images / f"{image_id}.jpg", labels.photograph(image_id))
                write_text(texts / f"{image_id}.txt", _lines(labels, image_id))
        about = {name: f"images/{name}" for name in lists}
        classes = dict(enumerate(labels.cache.class_names[1:]))
        text = yaml.safe_dump({**about, "names": classes}, sort_keys=False, allow_unicode=True)
        write_text(folder / "data.yaml", text)


def _lines(labels: StoreLabels, image_id: str) -> str:
    objects, entry = labels.objects(image_id), labels.cache.entry(image_id)
    if objects is None:
        return ""
    size = np.array([entry.width, entry.height], np.float64)
    corners = objects.boxes.astype(np.float64).reshape(-1, 2, 2) / size
    centres, sizes = corners.mean(axis=1), corners[:, 1] - corners[:, 0]
    rows = zip(objects.labels.tolist(), centres.tolist(), sizes.tolist(), strict=True)
    return "".join(
        f"{label - 1} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for label, (x, y), (w, h) in rows
    )
