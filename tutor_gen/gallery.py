"""What the tutors said, as pictures: one row an image on one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.common.files import atomic_file
from kdcli.tutor_gen.quality.masks import pasted
from kdcli.tutor_gen.quality.pixels import pixel_vectors
from kdcli.tutor_gen.quality.stores import spread_over
from kdcli.tutor_gen.tutors.tutor import name_of
from kdcli.voc.devkit import Devkit
from kdcli.voc.view.gallery import Panel, Row, ground_truth_panels, panel_scale, write_gallery
from kdcli.voc.view.overlay import enlarged, overlay

MAX_OPACITY = 0.8


def write_cache_gallery(path: Path, cache: TutorCache, devkit: Devkit, images: int) -> None:
    """Write ``images`` of the cache, evenly spread over it, as one HTML page.

    Raises:
        CacheError: the cache was made from other photographs than the devkit's, or other labels.
    """
    shown = spread_over(cache, devkit, images)
    settings = cache.provenance["settings"]
    facts = {
        "store": str(cache.path),
        "images": f"{len(cache)}, of which {len(shown)} are shown",
        **{f"{role} tutor": name_of(settings[role]) for role in sorted(cache.roles)},
        "fingerprint": cache.fingerprint,
    }
    rows = gallery_rows(cache, devkit, shown)
    with atomic_file(path) as file:
        write_gallery(file, "What the tutors said", facts, rows, devkit.labels)


def gallery_rows(
    cache: TutorCache, devkit: Devkit, image_ids: Iterable[str], threshold: float = 0.3
) -> Iterator[Row]:
    """Draw photograph, boxes, label vectors, masks and, where known, ground truth of each image.

    Args:
        cache: what the tutors said.
        devkit: photographs and ground truth.
        image_ids: images to draw, all of them in ``cache``.
        threshold: boxes and masks of lower confidence are left out of the picture.
    """
    for image_id in image_ids:
        image, output = devkit.read_image(image_id), cache[image_id]
        scale = panel_scale(image)
        panels = [Panel("photograph", enlarged(image, scale))]
        if "detection" in cache.roles:
            sure = output.scores >= threshold
            found = (output.boxes[sure], output.labels[sure], output.scores[sure])
            boxes = overlay(image, *found, label_set=devkit.labels, scale=scale)
            panels.append(Panel(f"detection tutor, confidence >= {threshold:g}", boxes))
        if "segmentation" in cache.roles:
            vectors = enlarged(
                _tinted(
                    image, *pixel_vectors(cache, image_id, image.shape[:2]), devkit.labels.palette
                ),
                scale,
            )
            panels.append(Panel("label vectors, opacity = confidence", vectors))
        if output.instances is not None:
            sure_masks = output.instances.take(output.instances.scores >= threshold)
            masks = overlay(image, masks=pasted(sure_masks, (output.height, output.width)))
            panels.append(Panel(f"its masks, confidence >= {threshold:g}", enlarged(masks, scale)))
        panels += ground_truth_panels(devkit, image_id, image)
        yield Row(image_id, _note(output), tuple(panels))


def _note(output: TutorOutput) -> str:
    size = f"{output.width} x {output.height}"
    return f"{size}, {len(output.boxes)} boxes, {len(output.palette)} distinct label vectors"


def _tinted(
    image: NDArray[np.uint8],
    index_map: NDArray[np.integer],
    vectors: NDArray[np.float32],
    palette: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """The colour of each pixel's strongest class but background, as opaque as its confidence."""
    classes = vectors[:, 1:]
    colours = palette[classes.argmax(axis=1) + 1].astype(np.float32)
    colour, alpha = colours[index_map], MAX_OPACITY * classes.max(axis=1)[index_map][..., None]
    tinted: NDArray[np.uint8] = (image * (1 - alpha) + colour * alpha).astype(np.uint8)
    return tinted
