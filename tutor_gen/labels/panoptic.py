"""Label vectors of a panoptic tutor: every pixel a distribution over the labels.

With p(things) the semantic head's probability that a pixel belongs to countable objects and m[c]
the largest confidence times mask of the instances of class c over it, for all of the tutor's
classes:

    v[c] = p(things) * m[c] / max(1, sum of m over all classes)      for every label c
    v[0] = 1 - sum of v[c]

So the instances share the mass of the things in proportion; classes that are no labels take their
part of it to the background, where the part that no instance claims and all stuff go, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.labels.hard import IndexMap, window_of
from kdcli.tutor_gen.labels.soft import Planes, code_planes
from kdcli.tutor_gen.tutors.tutor import Instances, Panoptic
from kdcli.voc.classes import VOC


def code_panoptic(
    found: Instances, panoptic: Panoptic, levels: int, classes: int = VOC.size
) -> tuple[IndexMap, NDArray[np.float32]]:
    """Code the label vectors of one image, every entry rounded to multiples of 1 / levels.

    Args:
        found: instances of the labels; masks of bool, or of uint8 as probability times 255.
        panoptic: the semantic head's part, and the instances of other classes.
        levels: how many steps from 0 to 1; an entry is at most half a step off.
        classes: length of a vector.

    Returns:
        Map and palette as `tutor_gen.labels.hard.code_label_vectors`.

    Raises:
        TooManyVectorsError: the image has more than 65,536 distinct vectors.
    """
    shape = panoptic.things.shape
    mass = _mass_by_class(found, shape)
    total = np.zeros(shape, dtype=np.float32)
    for each in (*mass.values(), *_mass_by_class(panoptic.others, shape).values()):
        total += each
    share = panoptic.things / np.maximum(total, 1)
    background = np.ones(shape, dtype=np.float32)
    planes: Planes = {}
    for label, claimed in mass.items():
        entry = share * claimed
        background -= entry
        planes[label] = np.rint(entry * levels).astype(np.uint8)
    planes[0] = np.rint(np.clip(background, 0, 1) * levels).astype(np.uint8)
    return code_planes(planes, shape, levels, classes)


def _mass_by_class(found: Instances, shape: tuple[int, ...]) -> dict[int, NDArray[np.float32]]:
    """Largest confidence times mask over the instances of each class, (H, W) float32."""
    assert found.masks is not None
    mass: dict[int, NDArray[np.float32]] = {}
    scale = np.float32(1 if found.masks.dtype == np.bool_ else 1 / 255)
    for index, label in enumerate(found.labels.tolist()):
        window = window_of(found.boxes[index], *shape)
        plane = mass.setdefault(label, np.zeros(shape, dtype=np.float32))
        weight = found.scores[index] * scale
        np.maximum(plane[window], found.masks[index][window] * weight, out=plane[window])
    return mass
