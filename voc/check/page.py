"""What is wrong with a data set as one HTML page, with pictures: the suspicious images first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdcli.common.errors import DevkitError
from kdcli.common.files import atomic_file
from kdcli.voc.check.image import RawObject, raw_objects
from kdcli.voc.check.problems import Finding, Problem, Report
from kdcli.voc.devkit import AUGMENTED_MASKS, CLASS_MASKS, Devkit, mask_colours
from kdcli.voc.folder import files_by_id
from kdcli.voc.images import read_mask
from kdcli.voc.labels import LabelSet
from kdcli.voc.view.gallery import Panel, Row, panel_scale, write_gallery
from kdcli.voc.view.overlay import overlay

_TEMPLATE = Path(__file__).parent / "templates" / "check.html"


def write_page(path: Path, report: Report, devkit: Devkit, images: int) -> None:
    """Write the table, and so many images: those with errors first, then others evenly spread.

    Args:
        path: of the page.
        report: what `voc.check.check.check_data` found.
        devkit: the data set.
        images: at most so many.
    """
    there = sorted(files_by_id(devkit.root / "JPEGImages", ".jpg"))
    suspicious: dict[str, list[Finding]] = {}
    known = set(there)
    for finding in report.findings:
        if finding.where in known and finding.problem is not Problem.UNLISTED:
            suspicious.setdefault(finding.where, []).append(finding)
    others = [image_id for image_id in there if image_id not in suspicious]
    room = min(max(images - len(suspicious), 0), len(others))
    fine = [others[i] for i in np.linspace(0, len(others) - 1, room).round().astype(int)]
    chosen = [*suspicious, *fine][:images]
    shown = f"{min(len(suspicious), images)} of {len(suspicious)} suspicious ones are shown"
    facts = {
        "data set": str(devkit.root),
        **{name: str(count) for name, count in report.facts.items()},
        "pictures": f"{shown}, and {len(chosen) - min(len(suspicious), images)} others",
    }
    rows = (_row(devkit, each, suspicious.get(each, ())) for each in chosen)
    kinds = report.of_kind()
    with atomic_file(path) as file:
        title = "Is the data right?"
        write_gallery(file, title, facts, rows, devkit.labels, _TEMPLATE, kinds=kinds)


def _row(devkit: Devkit, image_id: str, findings: Sequence[Finding]) -> Row:
    words = (f"{f.problem.title}{f': {f.detail}' if f.detail else ''}" for f in findings)
    return Row(image_id, "; ".join(words) or "nothing wrong", tuple(_panels(devkit, image_id)))


def _panels(devkit: Devkit, image_id: str) -> Iterator[Panel]:
    """Draw boxes and masks as the files state them; what cannot be read is left out."""
    try:
        image = devkit.read_image(image_id)
    except DevkitError:
        return
    scale = panel_scale(image)
    try:
        _, objects = raw_objects(devkit.annotation_path(image_id))
    except DevkitError:
        objects = []
    yield Panel(f"{len(objects)} boxes", _with_boxes(image, objects, devkit.labels, scale))
    for folder in (CLASS_MASKS, AUGMENTED_MASKS):
        try:
            mask = read_mask(
                devkit.mask_path(image_id, folder), mask_colours(folder, devkit.labels)
            )
        except DevkitError:
            continue
        size = image.shape[:2]
        caption = folder if mask.shape == size else f"{folder}, stretched to the photograph"
        yield Panel(caption, _with_mask(image, mask, devkit.labels, scale))


def _with_boxes(
    image: NDArray[np.uint8], objects: Sequence[RawObject], labels: LabelSet, scale: int
) -> NDArray[np.uint8]:
    """Draw boxes; those of unknown classes white, without a name."""
    drawn = [(thing.corners, labels.ids.get(thing.name, 0)) for thing in objects if thing.corners]
    boxes = np.array([box for box, _ in drawn], np.float32).reshape(-1, 4)
    boxes -= np.array([1, 1, 0, 0], np.float32)
    ids = np.array([label for _, label in drawn], np.int64)
    named = overlay(image, boxes[ids > 0], ids[ids > 0], label_set=labels, scale=scale)
    return overlay(named, scale * boxes[ids == 0])


def _with_mask(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], labels: LabelSet, scale: int
) -> NDArray[np.uint8]:
    """Draw a mask, stretched where it is of another size."""
    height, width = image.shape[:2]
    picture = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return overlay(image, class_map=np.asarray(picture), label_set=labels, scale=scale)
