"""What a stored label vector says: one reading for the tutors' scores and the student's targets.

An entry is the confidence in a class; entry 0, the background, is 0 unless the tutor gave a mass of
its own. A vector that is all zero says background: no instance lies there.

The functions are made of operators alone, so that they take NumPy arrays and PyTorch tensors alike.
"""

from __future__ import annotations

from typing import Any, TypeVar

Array = TypeVar("Array", bound=Any)

THRESHOLD = 0.3
"""Entries of less confidence do not exist, unless asked for otherwise.

Of two real COCO tutors on photographs, no other threshold is better by more than a point of mIoU
over the well-filled classes: docs/tutors.md.
"""


READING = "a vector without entries is background"
"""How vectors are read, in words that a run records: earlier versions read them otherwise."""


def from_threshold(vectors: Array, threshold: float) -> Array:
    """Return label vectors (..., K) without the entries below ``threshold``."""
    kept: Array = vectors * (vectors >= threshold)
    return kept


def winners(vectors: Any) -> Any:
    """Return the class of each label vector (..., K): its largest entry, background without any.

    The first of equal entries wins, so that an all-zero vector is background.
    """
    return vectors.argmax(-1)


def background_mass(given: Array, missing: Array) -> Array:
    """Return the mass of the background: the tutor's own where it gave one, else what is missing.

    Args:
        given: Entry 0 of label vectors.
        missing: What to take where that is 0, such as 1 - the largest entry; of the same shape.
    """
    mass: Array = given + (given == 0) * missing
    return mass
