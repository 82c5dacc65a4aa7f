"""Boxes, class numbers and confidences of an export: read, and chosen where it did not choose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms, box_convert

from kdcli.tutor_gen.exported.values import Values
from kdcli.tutor_gen.tutors.settings import ModelSettings

MOST_CANDIDATES = 10_000
"""Boxes of an image that non-maximum suppression looks at, the most confident ones."""


@dataclass(frozen=True, eq=False)
class Detected:
    """What an export found in an image.

    Attributes:
        boxes: (n, 4) float32 x1 y1 x2 y2, in the frame that its sidecar names.
        numbers: (n,) int64 class numbers.
        scores: (n,) float32.
        rows: (n,) of which of the export's ``count`` detections each was made.
        count: how many detections the export gave.
    """

    boxes: NDArray[np.float32]
    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    rows: NDArray[np.intp]
    count: int


def read_detections(values: Values, ids: NDArray[np.uint8], settings: ModelSettings) -> Detected:
    """Read what an export found, in its own order or, where it is chosen here, the best first.

    Args:
        values: what the export returned.
        ids: class id of each class number, 0 for none. Where each class has a column of
            confidences, the others are not looked at.
        settings: the least score and how many, where the detections are chosen here.

    Raises:
        TutorError: it returned something else than its sidecar says.
    """
    output = values.output
    boxes = values.array(output.boxes, 2).astype(np.float32)
    if output.labels is None:
        scores = _by_class(values, len(boxes), len(ids))
        numbers = np.broadcast_to(np.arange(len(ids)), scores.shape)
    else:
        numbers = _class_numbers(values)
        scores = values.confidences(output.scores, 1)
    if boxes.shape[1:] != (4,) or not len(boxes) == len(numbers) == len(scores):
        raise values.unexpected(
            "boxes (n, 4), labels (n,) and confidences (n,)",
            f"{boxes.shape}, {numbers.shape} and {scores.shape}",
        )
    if output.objectness is not None:
        factor = values.confidences(output.objectness, 1)
        if len(factor) != len(boxes):
            expected = f"{len(boxes)} factors at {output.objectness}"
            raise values.unexpected(expected, f"{len(factor)}")
        scores = (scores.T * factor).T
    if output.box_format != "xyxy":
        boxes = box_convert(torch.from_numpy(boxes), output.box_format, "xyxy").numpy()
    if not output.chooses:
        return Detected(boxes, numbers, scores, np.arange(len(boxes)), len(boxes))
    wanted = scores >= settings.score_threshold
    if scores.ndim == 2:
        wanted &= ids > 0
    rows = np.nonzero(wanted)[0]
    chosen = numbers[wanted].astype(np.int64), scores[wanted]
    found = Detected(boxes[rows], *chosen, rows, count=len(boxes))
    if not np.isfinite(found.boxes).all():
        raise values.unexpected(f"boxes at {output.boxes}", "NaN or infinite numbers")
    return _best(found, output.nms, settings.detections_per_image)


def _best(found: Detected, nms: float | None, limit: int) -> Detected:
    """The most confident ones, of which, with ``nms``, none of a class overlap by more."""
    order = np.argsort(-found.scores, kind="stable")[:MOST_CANDIDATES]
    if nms is not None:
        arrays = (found.boxes[order], found.scores[order], found.numbers[order])
        kept = batched_nms(*map(torch.from_numpy, arrays), nms)
        order = order[kept.numpy()]
    order = order[:limit]
    return Detected(
        found.boxes[order],
        found.numbers[order],
        found.scores[order],
        found.rows[order],
        found.count,
    )


def _by_class(values: Values, count: int, classes: int) -> NDArray[np.float32]:
    """Confidences (n, classes), a column for each class number."""
    place = values.output.scores
    scores = values.confidences(place, 2)
    if scores.shape != (count, classes):
        raise values.unexpected(
            f"confidences of {count} boxes and {classes} classes at {place}", f"{scores.shape}"
        )
    return scores


def _class_numbers(values: Values) -> NDArray[np.int64]:
    assert values.output.labels is not None
    given = values.array(values.output.labels, 1)
    numbers: NDArray[np.int64] = given.astype(np.int64)
    if (numbers != given).any():
        fraction = given[numbers != given][0]
        raise values.unexpected(f"class numbers at {values.output.labels}", f"{fraction:.3g}")
    return numbers
