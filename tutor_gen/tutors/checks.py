"""Is what a tutor said possible at all? What is not is refused, with the image named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kdcli.cache.format.record import MASK_SIDE
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.tutors.tutor import Answer, Instances, SemanticOutput
from kdcli.voc.classes import VOC

LARGEST_OVERHANG = 1.0
"""Pixels by which a box may stick out of the image, from rounding; it is clipped."""
_SUM_ROUNDING = 0.01
"""How far probabilities of 16 bits may sum from 1."""
_CONFIDENCE_ROUNDING = 1e-5


def check_answers(answers: object, images: int, name: str) -> list[Answer]:
    """Return what a tutor's ``predict`` returned for so many images.

    Raises:
        TutorError: it is no list of one `Instances` or `SemanticOutput` for each.
    """
    if not isinstance(answers, list | tuple):
        got = f"a {type(answers).__name__}"
    elif len(answers) != images:
        got = f"{len(answers)} answers"
    elif strange := [answer for answer in answers if not isinstance(answer, Answer)]:
        got = f"a {type(strange[0]).__name__} among them"
    else:
        return list(answers)
    raise TutorError(
        f"the tutor {name} was given {images} images and returned {got}; expected a list of one "
        "kdcli.Instances for each image (of a dense tutor: a kdcli.SemanticOutput)"
    )


def check_instances(
    found: Instances, image_id: str, height: int, width: int, classes: int = VOC.size
) -> Instances:
    """Return ``found`` with boxes inside the image and of positive area.

    Boxes that stick out by at most `LARGEST_OVERHANG` are clipped, boxes without area are left out;
    ``dropped`` counts the two as ``"clipped"`` and ``"empty"``.

    Raises:
        TutorError: naming the image: wrong shapes or types, values that are no numbers, negative
            sizes, boxes further outside, labels beyond 1..``classes`` - 1, confidences beyond 0..1.
    """
    problem = _problem(found, height, width, classes)
    if problem:
        raise TutorError(
            f"image {image_id}: the tutor's output cannot be true: {problem}; check that its "
            "configuration (or sidecar) belongs to its weights"
        )
    limits = np.array([width, height, width, height], dtype=np.float32)
    boxes = np.clip(found.boxes, 0, limits).astype(np.float32)
    clipped = int((boxes != found.boxes).any(axis=1).sum())
    dropped = {**found.dropped, "clipped": clipped} if clipped else found.dropped
    panoptic = found.panoptic
    if panoptic is not None:
        panoptic = replace(panoptic, things=np.clip(panoptic.things, 0, 1).astype(np.float32))
    checked = replace(
        found,
        boxes=boxes,
        scores=np.clip(found.scores, 0, 1).astype(np.float32),
        dropped=dropped,
        panoptic=panoptic,
    )
    filled = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return checked.select(filled, "empty")


def check_semantic(said: Answer, image_id: str, classes: int = VOC.size) -> SemanticOutput:
    """Return a dense tutor's output for so many classes, its probabilities clipped to 0..1.

    Raises:
        TutorError: naming the image: no such output, a wrong shape, a window that is none, values
            that are no probabilities, sums far from 1.
    """
    problem = _wrong_semantic(said, classes)
    if problem or not isinstance(said, SemanticOutput):
        raise TutorError(
            f"image {image_id}: the tutor's output cannot be true: {problem}; check that it gives "
            "probabilities (after the softmax) of its own classes, mapped to the labels"
        )
    probabilities = np.clip(said.probabilities, 0, 1).astype(np.float32)
    return replace(said, probabilities=probabilities)


def _wrong_semantic(said: Answer, classes: int) -> str | None:
    if not isinstance(said, SemanticOutput):
        return f"expected class probabilities (SemanticOutput), got {type(said).__name__}"
    given = said.probabilities
    problem = _no_array("probabilities", given)
    if problem is None and said.window is not None:
        problem = _no_array("window", said.window)
    if problem:
        return problem
    if given.ndim != 3 or given.shape[0] != classes or not given.size:
        return f"expected probabilities of shape ({classes}, h, w), got {given.shape}"
    if not ((given >= -_CONFIDENCE_ROUNDING) & (given <= 1 + _CONFIDENCE_ROUNDING)).all():
        return "expected probabilities within 0..1, got others (or NaN)"
    sums = given.sum(axis=0)
    if np.abs(sums - 1).max() > _SUM_ROUNDING:
        return f"expected probabilities that sum to 1, got sums from {sums.min()} to {sums.max()}"
    if said.window is None:
        return None
    (height, width), window = given.shape[1:], said.window
    if window.shape != (4,):
        return f"expected a window of 4 numbers, got {window.shape}"
    x1, y1, x2, y2 = window.tolist()
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        return f"expected a window within {width} x {height} cells, got {window.tolist()}"
    return None


def _no_array(name: str, value: object, kinds: str = "fiu") -> str | None:
    """Say so if a value is no NumPy array of numbers of these kinds."""
    if isinstance(value, np.ndarray) and value.dtype.kind in kinds:
        return None
    wanted = "whole numbers" if kinds == "iu" else "numbers"
    got = getattr(value, "dtype", None) or type(value).__name__
    return f"expected {name} to be a NumPy array of {wanted}, got {got}"


def _problem(found: Instances, height: int, width: int, classes: int) -> str | None:
    """Say what is wrong, or None."""
    for name, numbers in (("boxes", "fiu"), ("labels", "iu"), ("scores", "fiu")):
        if problem := _no_array(name, getattr(found, name), numbers):
            return problem
    n = len(found.labels)
    masks_shape = None if found.masks is None else found.masks.shape
    shapes = (found.boxes.shape, found.labels.shape, found.scores.shape, masks_shape)
    expected = ((n, 4), (n,), (n,), None if found.masks is None else (n, height, width))
    if shapes != expected:
        return f"expected boxes, labels, confidences, masks of shapes {expected}, got {shapes}"
    if found.masks is not None and found.masks.dtype not in (np.bool_, np.uint8):
        return f"expected masks of type bool or uint8, got {found.masks.dtype}"
    own = found.mask_probabilities
    if own is not None and own.shape != (n, MASK_SIDE, MASK_SIDE):
        return f"expected mask probabilities of shape {(n, MASK_SIDE, MASK_SIDE)}, got {own.shape}"
    if own is not None and not ((own >= 0) & (own <= 1)).all():
        return "expected mask probabilities 0..1, got others (or NaN)"
    return (
        _wrong_numbers(found, height, width, classes)
        or _wrong_distributions(found, classes)
        or _wrong_panoptic(found, height, width, classes)
    )


def _wrong_numbers(found: Instances, height: int, width: int, classes: int) -> str | None:
    boxes, scores = found.boxes, found.scores
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        return "it holds NaN or infinite numbers"
    negative = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if negative.size:
        return f"expected boxes x1 y1 x2 y2 with x1 <= x2 and y1 <= y2, got {_row(boxes, negative)}"
    lowest, limits = -LARGEST_OVERHANG, np.array([width, height]) + LARGEST_OVERHANG
    beyond = (boxes[:, :2] < lowest).any(axis=1) | (boxes[:, 2:] > limits).any(axis=1)
    outside = np.flatnonzero(beyond)
    if outside.size:
        return f"expected boxes within {width} x {height} pixels, got {_row(boxes, outside)}"
    if ((found.labels < 1) | (found.labels >= classes)).any():
        got = sorted(set(found.labels.tolist()))
        return f"expected class ids 1..{classes - 1}, got {got}"
    if ((scores < 0) | (scores > 1 + _CONFIDENCE_ROUNDING)).any():
        return f"expected confidences 0..1, got {scores.min()} to {scores.max()}"
    return None


def _wrong_distributions(found: Instances, classes: int) -> str | None:
    given = found.distributions
    if given is None:
        return None
    if given.shape != (len(found), classes):
        return f"expected class distributions of shape {(len(found), classes)}, got {given.shape}"
    if not ((given >= 0) & (given <= 1 + _CONFIDENCE_ROUNDING)).all():
        return "expected class distributions within 0..1, got others (or NaN)"
    own = given[np.arange(len(found)), found.labels]
    if not np.allclose(own, found.scores, rtol=0, atol=_CONFIDENCE_ROUNDING):
        return "expected each box's distribution to hold its confidence, got others"
    return None


def _wrong_panoptic(found: Instances, height: int, width: int, classes: int) -> str | None:
    if found.panoptic is None:
        return None
    things, others = found.panoptic.things, found.panoptic.others
    if things.shape != (height, width):
        return f"expected the semantic head's output of {(height, width)}, got {things.shape}"
    if not ((things >= 0) & (things <= 1 + _CONFIDENCE_ROUNDING)).all():
        return "expected the semantic head's probabilities within 0..1, got others (or NaN)"
    # Their labels are the tutor's own; any label passes for one.
    return _problem(replace(others, labels=np.ones_like(others.labels)), height, width, classes)


def _row(boxes: NDArray[np.float32], which: NDArray[np.intp]) -> str:
    return str(boxes[which[0]].round(2).tolist())
