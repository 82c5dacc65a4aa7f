"""Means over the classes that a list of images shows often.

One right box more or less moves the average precision over four objects by a quarter; a mean over
all classes counts such a class like one of a hundred objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASSES, NUM_CLASSES

LEAST_OBJECTS = 20
"""A class of at least so many objects is frequent; in VOC 2012's Segmentation/val all are."""


def count_objects(annotations: Iterable[Annotation]) -> dict[str, int]:
    """Return by class name, without background, how many objects are not difficult."""
    counts = np.zeros(NUM_CLASSES, dtype=np.int64)
    for each in annotations:
        counts += np.bincount(each.labels[~each.difficult], minlength=NUM_CLASSES)
    return {name: int(counts[label]) for label, name in enumerate(CLASSES) if label}


def frequent_classes(objects: Mapping[str, int], least: int = LEAST_OBJECTS) -> tuple[str, ...]:
    """Return the classes with at least ``least`` objects, in the order of ``objects``.

    >>> frequent_classes({"cat": 131, "chair": 23, "sofa": 17})
    ('cat', 'chair')
    """
    return tuple(name for name, count in objects.items() if count >= least)


def mean_over(values: Mapping[str, float], names: Iterable[str]) -> float:
    """Return the mean of the values of some classes; nan ones are left out, nan of nothing."""
    known = [values[name] for name in names if not math.isnan(values[name])]
    return float(np.mean(known)) if known else math.nan
