"""Means over the classes that a list of images shows often.

One right box more or less moves the average precision over four objects by a quarter, and a mean
over all classes counts such a class like one of a hundred objects. The devkit's lists are large
enough for its means over all classes; parts of them are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

LEAST_OBJECTS = 20
"""A class of at least so many objects is frequent, as all are in VOC 2012's Segmentation/val."""


def frequent_classes(objects: Mapping[str, int], least: int = LEAST_OBJECTS) -> tuple[str, ...]:
    """Return the classes with at least ``least`` objects, in the order of ``objects``.

    Args:
        objects: by class name, how many objects of a list count, that is, are not difficult (see
            `voc.metrics.count_objects`).
        least: how many make a class frequent.

    >>> frequent_classes({"cat": 131, "chair": 23, "sofa": 17})
    ('cat', 'chair')
    """
    return tuple(name for name, count in objects.items() if count >= least)


def mean_over(values: Mapping[str, float | None], names: Iterable[str]) -> float:
    """Return the mean of the values of some classes; undefined ones are left out, nan of nothing.

    Args:
        values: by class name; nan, None or absent where undefined.
        names: which classes.
    """
    found = [value for name in names if (value := values.get(name)) is not None]
    known = [value for value in found if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
