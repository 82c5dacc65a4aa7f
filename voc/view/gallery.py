"""One self-contained HTML page of pictures: overlays beside each other, one row an image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdcli.voc.devkit import AUGMENTED_MASKS, CLASS_MASKS, Devkit
from kdcli.voc.instances import instance_truth
from kdcli.voc.labels import LabelSet
from kdcli.voc.view.overlay import overlay

PANEL_SIDE = 360
GALLERY = Path(__file__).parent / "templates" / "gallery.html"


@dataclass(frozen=True)
class Panel:
    """One picture and what it shows.

    Attributes:
        caption: a few words under the picture.
        image: (H, W, 3) uint8, RGB.
    """

    caption: str
    image: NDArray[np.uint8]

    @property
    def height(self) -> int:
        """Rows of the picture."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns of the picture."""
        return int(self.image.shape[1])

    @property
    def source(self) -> str:
        """The picture as a ``data:`` URL, so that the page needs no other file."""
        buffer = io.BytesIO()
        Image.fromarray(self.image).save(buffer, "JPEG", quality=88)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Row:
    """The panels of one image, with its id as title and one line of text."""

    title: str
    note: str
    panels: tuple[Panel, ...]


def panel_scale(image: NDArray[np.uint8]) -> int:
    """How many times to enlarge a picture so that its panel has ``PANEL_SIDE`` pixels or more."""
    return math.ceil(PANEL_SIDE / max(int(image.shape[0]), int(image.shape[1])))


def ground_truth_panels(
    devkit: Devkit, image_id: str, image: NDArray[np.uint8], folder: str | None = None
) -> tuple[Panel, ...]:
    """The panel of an image's ground truth; none where the devkit has neither boxes nor mask.

    Args:
        devkit: gives the ground truth.
        image_id: which image.
        image: its photograph.
        folder: of the class mask; by default VOC's own, or the augmented set's where that lacks it.
    """
    if folder is None:
        folder = CLASS_MASKS if devkit.has_mask(image_id) else AUGMENTED_MASKS
    picture, known = draw_ground_truth(devkit, image_id, image, folder)
    return (Panel(f"ground truth: {' and '.join(known)}", picture),) if known else ()


def draw_ground_truth(
    devkit: Devkit, image_id: str, image: NDArray[np.uint8], folder: str, *, objects: bool = True
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return a photograph with its boxes, class mask and objects' outlines, and which it has.

    Args:
        devkit: gives the ground truth.
        image_id: which image.
        image: its photograph.
        folder: of the class mask.
        objects: whether masks of objects are looked for.

    Returns:
        The picture; ``"boxes"`` and ``"mask"``, as far as they are known.
    """
    instances = instance_truth(devkit, image_id) if objects else None
    annotation = devkit.annotation(image_id) if instances is None else instances.annotation
    boxes, labels = (None, None) if annotation is None else (annotation.boxes, annotation.labels)
    mask = devkit.mask(image_id, folder)
    picture = overlay(
        image,
        boxes,
        labels,
        class_map=mask,
        masks=() if instances is None else instances.masks(),
        label_set=devkit.labels,
        scale=panel_scale(image),
    )
    parts = (("boxes", annotation), ("mask", mask))
    return picture, tuple(name for name, part in parts if part is not None)


def write_gallery(
    file: BinaryIO,
    title: str,
    facts: Mapping[str, str],
    rows: Iterable[Row],
    labels: LabelSet,
    template: Path = GALLERY,
    **content: object,
) -> None:
    """Write ``rows`` to a file as one HTML page; rows are drawn one at a time, as they come.

    Args:
        file: where to.
        title: of the page.
        facts: name and value, under the title.
        rows: the pictures.
        labels: what is in them.
        template: one that extends ``gallery.html``, to say more before the pictures.
        content: what that template shows.
    """
    folders = [template.parent, GALLERY.parent]
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(folders), autoescape=True)
    colours = labels.palette[1:].tolist()
    legend = [(name, f"rgb{tuple(rgb)}") for name, rgb in zip(labels.names, colours, strict=False)]
    page = environment.get_template(template.name).stream(
        title=title, facts=facts, legend=legend, rows=rows, **content
    )
    page.dump(file, encoding="utf-8")
