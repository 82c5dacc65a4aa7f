"""Masks as COCO writes them, by pycocotools: polygons and run lengths to pixels, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycoco

from kdcli.common.errors import DevkitError

_LEAST_NUMBERS = 6
"""Of a polygon: three corners."""


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask (H, W) as run lengths that JSON can hold: ``size`` and ``counts``."""
    runs = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}


def decode(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return a segmentation's pixels, (height, width) bool.

    Raises:
        DevkitError: it is neither polygons nor run lengths, or of another size.
    """
    try:
        runs = _runs(segmentation, height, width)
        mask: NDArray[np.bool_] = pycoco.decode(runs).astype(np.bool_)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DevkitError(f"its segmentation cannot be read ({error!r})") from error
    if mask.shape != (height, width):
        size = f"{mask.shape[1]} x {mask.shape[0]}"
        raise DevkitError(f"its segmentation is of {size} pixels, the image of {width} x {height}")
    return mask


def area(runs: dict[str, Any]) -> float:
    """Return how many pixels run lengths cover."""
    return float(pycoco.area(runs))


def is_empty(segmentation: Any) -> bool:
    """Whether there is none: absent, or polygons without any of three corners."""
    if isinstance(segmentation, list):
        return not _polygons(segmentation)
    return not segmentation


def _runs(segmentation: Any, height: int, width: int) -> Any:
    if isinstance(segmentation, list):
        return pycoco.merge(pycoco.frPyObjects(_polygons(segmentation), height, width))
    size, counts = segmentation["size"], segmentation["counts"]
    if list(size) != [height, width]:
        raise DevkitError(
            f"its segmentation is of {size[1]} x {size[0]} pixels, the image of {width} x {height}"
        )
    if not isinstance(counts, list):
        return segmentation
    if sum(counts) != height * width or min(counts) < 0:
        raise ValueError(f"run lengths of {sum(counts)} pixels")
    return pycoco.frPyObjects(segmentation, height, width)


def _polygons(segmentation: list[Any]) -> list[list[float]]:
    """Return those of three corners or more; some of COCO's have fewer, which cover nothing."""
    return [each for each in segmentation if len(each) >= _LEAST_NUMBERS]
