from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError

from kdcli.common.detections import Detections
from kdcli.tutor_gen.quality.calibration import BINS
from kdcli.tutor_gen.quality.reliability import reliability
from kdcli.voc.annotation import Annotation
from kdcli.voc.metrics.detection import judge

CAT = 8


def annotation(boxes: list[list[float]], difficult: list[bool]) -> Annotation:
    n = len(boxes)
    return Annotation(
        "2007_000001", 100, 100, np.array(boxes, np.float32).reshape(-1, 4),
        np.full(n, CAT), np.array(difficult, np.bool_), np.zeros(n, np.bool_),
    )  # fmt: skip


def cats(boxes: list[list[float]], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, np.float32), np.full(len(boxes), CAT), np.array(scores, np.float32)
    )


HERE, THERE, BELOW, NOWHERE = [0, 0, 20, 20], [50, 0, 70, 20], [0, 50, 20, 70], [80, 80, 90, 90]


def test_by_hand() -> None:
    """Two boxes of about .9, one of them right, a right one of .3; a difficult one and a doubt."""
    truth = {"a": annotation([HERE, THERE, BELOW], [False, False, True])}
    said = {"a": cats([HERE, NOWHERE, THERE, BELOW, NOWHERE], [0.92, 0.9, 0.3, 0.8, 0.01])}
    found = reliability(said, truth)
    assert found.boxes[13] == 2
    assert found.boxes[4] == 1
    assert sum(found.boxes) == 3
    assert found.scores[13] == pytest.approx(0.91)
    assert (found.precision[13], found.precision[4]) == (0.5, 1)
    assert found.error == pytest.approx((2 * 0.41 + 0.7) / 3)
    assert found.excess == pytest.approx((2 * 0.41 - 0.7) / 3)
    assert math.isnan(found.scores[0])
    assert sum(reliability(said, truth, least=0.01).boxes) == 4
    assert math.isnan(reliability({}, truth).error)


def test_it_is_the_calibration_error_of_right_and_wrong() -> None:
    """By torchmetrics, of whether each box is right as a prediction of two classes."""
    rng = np.random.default_rng(4)
    truth, said = {}, {}
    for name in "abcdef":
        corners = rng.uniform(0, 70, (30, 2))
        boxes = np.concatenate([corners, corners + 15], axis=1)
        truth[name] = annotation(boxes[:12].tolist(), (rng.random(12) < 0.2).tolist())
        said[name] = cats((boxes + rng.normal(0, 1.5, boxes.shape)).tolist(), rng.random(30))
    verdicts = [judge(said[name], truth[name]) for name in truth]
    right, counts = (np.concatenate(parts) for parts in zip(*verdicts, strict=True))
    scores = np.concatenate([each.scores for each in said.values()])
    kept = counts & (scores >= 0.05)
    expected = BinaryCalibrationError(n_bins=BINS)(
        torch.from_numpy(scores[kept]), torch.from_numpy(right[kept]).long()
    )
    found = reliability(said, truth)
    assert found.error == pytest.approx(expected.item(), abs=1e-6)
    assert found.excess == pytest.approx(scores[kept].mean() - right[kept].mean(), abs=1e-6)
    assert sum(found.boxes) == kept.sum() > 100
