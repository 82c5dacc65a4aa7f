from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.classification import MulticlassCalibrationError

from kdcli.cache.format.vectors import from_threshold
from kdcli.common.detections import Detections
from kdcli.student.config.tasks import TargetForm
from kdcli.student.losses.soft_labels import label_vector_target
from kdcli.tutor_gen.quality.calibration import (
    BINS,
    LEAST_PROBABILITY,
    TEMPERATURES,
    CalibrationScore,
    CalibrationSums,
    VectorSums,
    background_form,
    count_vectors,
    softmax_form,
    sweep_thresholds,
)
from kdcli.voc.annotation import Annotation
from kdcli.voc.metrics.detection import evaluate_detections
from kdcli.voc.metrics.segmentation import ConfusionMatrix

CAT, DOG = 8, 12


def annotation(boxes: list[list[int]], labels: list[int], difficult: list[bool]) -> Annotation:
    return Annotation(
        image_id="2007_000001",
        width=100,
        height=100,
        boxes=np.array(boxes, dtype=np.float32),
        labels=np.array(labels, dtype=np.int64),
        difficult=np.array(difficult, dtype=np.bool_),
        truncated=np.zeros(len(labels), dtype=np.bool_),
    )


def detections(boxes: list[list[int]], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float32),
        np.full(len(boxes), CAT),
        np.array(scores, dtype=np.float32),
    )


LEFT, RIGHT, BELOW = [0, 0, 20, 20], [50, 0, 70, 20], [0, 50, 20, 70]


def test_thresholds_by_hand() -> None:
    """Two cats and a difficult one; the boxes are right, wrong, on the difficult one, right."""
    truth = {"a": annotation([LEFT, RIGHT, BELOW], [CAT] * 3, [False, False, True])}
    found = {"a": detections([LEFT, [80, 80, 90, 90], BELOW, RIGHT], [0.9, 0.6, 0.5, 0.2])}
    everything, half, few, none = sweep_thresholds(found, truth, (None, 0.5, 0.7, 0.95))
    assert (everything.boxes, half.boxes, few.boxes, none.boxes) == (4, 3, 1, 0)
    assert everything.precision == pytest.approx(2 / 3)
    assert everything.recall == 1
    assert everything.f1 == pytest.approx(0.8)
    assert everything.map == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert (half.precision, half.recall, half.f1, half.map) == (0.5, 0.5, 0.5, 0.5)
    assert (few.precision, few.recall, few.map) == (1, 0.5, 0.5)
    assert few.f1 == pytest.approx(2 / 3)
    assert math.isnan(none.precision)
    assert math.isnan(none.f1)
    assert (none.recall, none.map) == (0, 0)


def test_a_threshold_keeps_what_equals_it_in_single_precision() -> None:
    truth = {"a": annotation([LEFT], [CAT], [False])}
    found = {"a": detections([LEFT, RIGHT], [0.001, 0.00099])}
    (score,) = sweep_thresholds(found, truth, (0.001,))
    assert (score.boxes, score.precision) == (1, 1)


def test_map_of_each_threshold_is_the_metrics_own() -> None:
    rng = np.random.default_rng(0)
    truth, found = {}, {}
    for image in "abcdef":
        corners = rng.integers(0, 60, (5, 2))
        boxes = np.concatenate([corners, corners + rng.integers(15, 40, (5, 2))], axis=1)
        labels = rng.choice([CAT, DOG], 5).tolist()
        truth[image] = annotation(boxes.tolist(), labels, (rng.random(5) < 0.2).tolist())
        moved = np.repeat(boxes, 3, axis=0) + rng.normal(0, 3, (15, 4))
        found[image] = Detections(
            moved.astype(np.float32),
            np.repeat(labels, 3),
            rng.random(15).astype(np.float32),
        )
    for score in sweep_thresholds(found, truth, (None, 0.3, 0.8)):
        kept = {
            image: Detections(d.boxes[k], d.labels[k], d.scores[k])
            for image, d in found.items()
            for k in [d.scores >= (score.threshold or 0)]
        }
        assert score.map == evaluate_detections(kept, truth).map
        assert score.boxes == sum(len(d.labels) for d in kept.values())
        assert 0 < score.precision < 1


Image = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]
"""Label map, palette and true classes."""


def calibration(temperature: float | None, *images: Image) -> CalibrationScore:
    sums = CalibrationSums(temperature)
    for index_map, palette, truth in images:
        sums.add(palette, count_vectors(index_map, palette, truth))
    return sums.score()


def two_pixels() -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Background that nothing covers, a cat covered with confidence 1, and a void pixel."""
    palette = np.zeros((2, 21), dtype=np.float32)
    palette[1, CAT] = 1
    index_map = np.array([[0, 1, 1]], dtype=np.uint8)
    return index_map, palette, np.array([[0, CAT, 255]], dtype=np.uint8)


def test_temperatures_by_hand() -> None:
    """The uncovered pixel is background of confidence 1, as sure as the cat."""
    warm, background = calibration(0.4, two_pixels()), calibration(None, two_pixels())
    right = math.exp(2.5) / (math.exp(2.5) + 20)
    other = 1 / (math.exp(2.5) + 20)
    assert right == pytest.approx(0.3785, abs=1e-4)
    assert warm.temperature == 0.4
    assert warm.cross_entropy == pytest.approx(-math.log(right))
    assert warm.calibration_error == pytest.approx(1 - right)
    assert warm.brier == pytest.approx((1 - right) ** 2 + 20 * other**2)
    assert warm.entropy == pytest.approx(-right * math.log(right) - 20 * other * math.log(other))
    assert background.temperature is None
    sums = (background.cross_entropy, background.calibration_error, background.brier)
    assert sums == pytest.approx((0, 0, 0))
    assert background.entropy == pytest.approx(0)


def test_a_pixel_given_no_probability_counts_with_the_least_one() -> None:
    index_map, palette, truth = two_pixels()
    wrong = np.where(truth == CAT, DOG, truth).astype(np.uint8)
    background = calibration(None, (index_map, palette, wrong))
    assert background.cross_entropy == pytest.approx(-math.log(LEAST_PROBABILITY) / 2)
    assert background.calibration_error == pytest.approx(0.5)
    assert background.brier == pytest.approx(1)


def test_scores_equal_other_libraries() -> None:
    """Cross-entropy by PyTorch, calibration error by torchmetrics, over two images."""
    rng = np.random.default_rng(3)
    images, vectors, classes = [], [], []
    for _ in range(2):
        palette = np.where(rng.random((40, 21)) < 0.2, rng.random((40, 21)), 0).astype(np.float32)
        index_map = rng.integers(0, 40, (30, 20)).astype(np.uint8)
        truth = rng.choice([0, 1, 2, 3, 255], (30, 20)).astype(np.uint8)
        images.append((index_map, palette, truth))
        vectors.append(palette[index_map][truth != 255])
        classes.append(truth[truth != 255])
    logits = torch.from_numpy(np.concatenate(vectors)).double()
    logits[(logits == 0).all(dim=1), 0] = 1
    target = torch.from_numpy(np.concatenate(classes)).long()
    for temperature in (0.15, 1.0):
        score = calibration(temperature, *images)
        p = (logits / temperature).softmax(dim=1)
        expected = torch.nn.functional.nll_loss(p.clamp(min=LEAST_PROBABILITY).log(), target)
        assert score.cross_entropy == pytest.approx(expected.item())
        error = MulticlassCalibrationError(num_classes=21, n_bins=BINS)(p.float(), target)
        assert score.calibration_error == pytest.approx(error.item(), abs=1e-5)
        entropy = torch.distributions.Categorical(p).entropy().mean()
        assert score.entropy == pytest.approx(entropy.item())


def test_the_arg_max_is_the_same_at_every_temperature() -> None:
    vectors = np.random.default_rng(1).random((200, 21)).astype(np.float32)
    for temperature in TEMPERATURES:
        said = softmax_form(vectors, temperature)
        np.testing.assert_array_equal(said.argmax(axis=1), vectors.argmax(axis=1))
        np.testing.assert_allclose(said.sum(axis=1), 1)


def test_vectors_with_a_background_of_their_own_keep_it() -> None:
    vectors = np.zeros((3, 21), dtype=np.float32)
    vectors[1, [0, CAT]] = 0.25, 0.75
    vectors[2, [CAT, DOG]] = 0.75, 0.5
    said = background_form(vectors)
    assert said[0, 0] == 1
    assert said[1, [0, CAT]].tolist() == [0.25, 0.75]
    np.testing.assert_allclose(said[2, [0, CAT, DOG]], np.array([0.25, 0.75, 0.5]) / 1.5)


def test_without_pixels_nothing_is_defined() -> None:
    index_map, palette, truth = two_pixels()
    void = (index_map, palette, np.full_like(truth, 255))
    assert math.isnan(calibration(1.0, void).cross_entropy)
    sums = VectorSums(0.3)
    sums.add(palette, count_vectors(*void))
    assert math.isnan(sums.score().miou)
    assert math.isnan(sums.score().covered)


@pytest.mark.parametrize("form", ["softmax", "background"])
def test_the_forms_are_those_of_the_students_targets(form: TargetForm) -> None:
    """One definition, in NumPy for the scores and in PyTorch for training."""
    rng = np.random.default_rng(5)
    vectors = np.where(rng.random((60, 21)) < 0.08, rng.random((60, 21)), 0).astype(np.float32)
    assert {bool(v.any()) for v in vectors} == {bool(v[0]) for v in vectors} == {True, False}
    here = softmax_form(vectors, 0.4) if form == "softmax" else background_form(vectors)
    there = label_vector_target(torch.from_numpy(vectors), form, 0.4).numpy()
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_label_vectors_from_a_threshold_equal_counting_pixel_by_pixel() -> None:
    """And the classes are those that the student learns from the same threshold."""
    rng = np.random.default_rng(8)
    palette = np.where(rng.random((40, 21)) < 0.2, rng.random((40, 21)), 0).astype(np.float32)
    index_map = rng.integers(0, 40, (30, 20)).astype(np.uint8)
    truth = rng.choice([0, 1, 2, 3, 255], (30, 20)).astype(np.uint8)
    for threshold in (None, 0.3, 0.9):
        sums = VectorSums(threshold)
        sums.add(palette, count_vectors(index_map, palette, truth))
        classes = label_vector_target(
            from_threshold(torch.from_numpy(palette[index_map]), threshold or 0.0), "hard"
        ).argmax(dim=-1)
        matrix = ConfusionMatrix()
        matrix.update(classes.numpy(), truth)
        np.testing.assert_array_equal(sums.counts, matrix.counts)
        assert sums.score().miou == matrix.result().miou
        known = truth != 255
        assert sums.score().covered == pytest.approx((classes.numpy()[known] > 0).mean())
