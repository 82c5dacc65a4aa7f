"""What a tutor may say: outputs that break a rule are refused before they reach the store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.layout import MAX_PALETTE
from kdcli.cache.format.record import DROPPED, MASK_SIDE, InstanceMasks, TutorOutput
from kdcli.common.detections import Detections
from kdcli.common.errors import CacheError
from kdcli.common.images import ImageEntry


def check_output(
    output: TutorOutput, entry: ImageEntry, features: frozenset[str], classes: int
) -> None:
    """``CacheError`` naming the image unless the output is fit for it.

    Checked: types and shapes; boxes finite, of positive area and inside the image; labels from 1 to
    below ``classes``; confidences within 0..1; the label map of the image's size and within its
    palette; the palette finite with row 0 all zero; instances, and a grid's window, there if, and
    only if, the cache has them among its ``features``.
    """
    keep_masks = "instances" in features
    try:
        if (output.window is not None) != ("grid" in features):
            given = "an image's own map" if output.window is None else "a grid's map"
            raise ValueError(f"expected the other kind of label map (settings.grid), got {given}")
        _check_detections(output.detections, entry, classes)
        _check_label_map(output, entry, classes)
        if (output.instances is not None) != keep_masks:
            there = "none" if output.instances is None else "some"
            raise ValueError(
                f"expected {'the' if keep_masks else 'no'} instance masks "
                f"(settings.keep_masks is {str(keep_masks).lower()}), got {there}"
            )
        if output.instances is not None:
            _check_instances(output.instances, entry, classes)
        if output.dropped is not None:
            _check_array("dropped", output.dropped, "uint32", (len(DROPPED),))
    except ValueError as error:
        raise CacheError(
            f"{entry.image_id}: a tutor's output cannot be stored: {error}. This is a fault of the "
            "tutor or of its adapter, not of the image."
        ) from error


def _check_array(name: str, array: NDArray[Any], dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(
            f"expected {name} of shape {shape} and type {dtype}, got {array.shape} {array.dtype}"
        )


def _check_detections(found: Detections, entry: ImageEntry, classes: int) -> None:
    boxes, labels, scores = found.boxes, found.labels, found.scores
    n = len(boxes)
    _check_array("boxes", boxes, "float32", (n, 4))
    _check_array("labels", labels, "uint8", (n,))
    _check_array("confidences", scores, "float32", (n,))
    if n == 0:
        return
    if not np.isfinite(boxes).all():
        raise ValueError(f"expected finite boxes, got {_first(boxes, ~np.isfinite(boxes).all(1))}")
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    if flat.any():
        raise ValueError(f"expected boxes of positive area, got {_first(boxes, flat)}")
    limit = np.array([entry.width, entry.height], dtype=np.float32)
    outside = (boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > limit).any(1)
    if outside.any():
        raise ValueError(
            f"expected boxes inside {entry.width} x {entry.height} pixels, "
            f"got {_first(boxes, outside)}"
        )
    if labels.min() < 1 or labels.max() >= classes:
        raise ValueError(f"expected labels 1 to {classes - 1}, got {np.unique(labels).tolist()}")
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ValueError("expected confidences within 0..1, got others (or NaN)")


def _first(boxes: NDArray[Any], bad: np.bool_ | NDArray[np.bool_]) -> str:
    index = int(np.flatnonzero(bad)[0])
    return f"box {index}: {[float(v) for v in boxes[index]]}"


def _check_label_map(output: TutorOutput, entry: ImageEntry, classes: int) -> None:
    palette, index_map = output.palette, output.index_map
    k = len(palette)
    _check_array("palette", palette, "float32", (k, classes))
    if not 1 <= k <= MAX_PALETTE:
        raise ValueError(f"expected 1 to {MAX_PALETTE} label vectors in the palette, got {k}")
    if palette[0].any():
        raise ValueError("expected row 0 of the palette to be all zero")
    if not np.isfinite(palette).all():
        raise ValueError("expected a finite palette, got infinity or NaN")
    if index_map.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected a label map of type uint8 or uint16, got {index_map.dtype}")
    if output.window is not None:
        _check_grid(output.window, index_map.shape, entry)
    elif index_map.shape != (entry.height, entry.width):
        raise ValueError(
            f"expected a label map of shape {(entry.height, entry.width)}, got {index_map.shape}"
        )
    if index_map.size == 0:
        raise ValueError("expected an image of at least one pixel")
    if int(index_map.max()) >= k:
        raise ValueError(
            f"expected indices below {k} (the palette's length), got {int(index_map.max())}"
        )


def _check_grid(window: NDArray[Any], shape: tuple[int, ...], entry: ImageEntry) -> None:
    _check_array("window", window, "float32", (4,))
    if len(shape) != 2 or shape[0] * shape[1] > entry.height * entry.width:
        raise ValueError(
            f"expected a grid of at most the image's {entry.height} x {entry.width} cells, "
            f"got {shape}"
        )
    (x1, y1, x2, y2), (height, width) = window.tolist(), shape
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise ValueError(
            f"expected a window x1 y1 x2 y2 within {width} x {height} cells, got {window.tolist()}"
        )


def _check_instances(instances: InstanceMasks, entry: ImageEntry, classes: int) -> None:
    n = len(instances.boxes)
    _check_array("instance masks", instances.masks, "uint8", (n, MASK_SIDE, MASK_SIDE))
    _check_detections(instances, entry, classes)
