from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.voc.classes import CLASSES, NUM_CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.labels import VOID
from kdcli.voc.metrics import ConfusionMatrix


def matrix(*pairs: tuple[list[int], list[int]]) -> ConfusionMatrix:
    result = ConfusionMatrix()
    for prediction, target in pairs:
        result.update(np.array([prediction]), np.array([target]))
    return result


def test_by_hand() -> None:
    result = matrix(([0, 0, 8, 8, 12], [0, 8, 8, 8, 0]), ([8, 3], [8, VOID])).result()
    assert result.iou["background"] == pytest.approx(1 / 3)
    assert result.iou["cat"] == pytest.approx(3 / 4)
    assert result.iou["dog"] == 0
    assert np.isnan(result.iou["bird"])
    # The dog is predicted but absent: 0 in its own line, no part of the mean.
    assert result.miou == pytest.approx((1 / 3 + 3 / 4) / 2)
    assert result.pixels["cat"] == 4
    assert result.pixel_accuracy == pytest.approx(4 / 6)


def test_nothing_counted() -> None:
    result = matrix(([4, 5], [VOID, VOID])).result()
    assert np.isnan(result.miou)
    assert np.isnan(result.pixel_accuracy)
    assert sum(result.pixels.values()) == 0


def test_images_add_up() -> None:
    rng = np.random.default_rng(1)
    target, prediction = rng.integers(0, NUM_CLASSES, (2, 30, 40))
    whole, halves = ConfusionMatrix(), ConfusionMatrix()
    whole.update(prediction, target)
    halves.update(prediction[:11], target[:11])
    halves.update(prediction[11:], target[11:])
    np.testing.assert_array_equal(whole.counts, halves.counts)


def test_small_integer_types_do_not_overflow() -> None:
    target = np.full((2, 2), 20, dtype=np.uint8)
    counted = ConfusionMatrix()
    counted.update(target, target)
    assert counted.counts[20, 20] == 4


def test_void_may_hide_anything_in_the_prediction() -> None:
    counted = matrix(([77, 3], [VOID, 3]))
    assert counted.counts.sum() == 1


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[1, 2]], [[1]], r"Expected a prediction of the target's shape \(1, 1\), got \(1, 2\)"),
        ([[1]], [[21]], r"0\.\.20 in the target, got 21 to 21"),
        ([[255]], [[1]], r"0\.\.20 in the prediction, got 255"),
        ([[-1]], [[1]], r"0\.\.20 in the prediction, got -1"),
    ],
)
def test_refusals(prediction: list[list[int]], target: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix().update(np.array(prediction), np.array(target))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(1, NUM_CLASSES))
def test_equals_torchmetrics(seed: int, classes: int) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(NUM_CLASSES, classes, replace=False)
    options = {"num_classes": NUM_CLASSES, "ignore_index": VOID}
    theirs = metrics.MulticlassConfusionMatrix(**options)
    jaccard = metrics.MulticlassJaccardIndex(average="none", **options)
    ours = ConfusionMatrix()
    for _ in range(3):
        target = rng.choice(chosen, rng.integers(1, 30, 2))
        prediction = np.where(
            rng.random(target.shape) < 0.5, target, rng.choice(NUM_CLASSES, target.shape)
        )
        target[rng.random(target.shape) < 0.1] = VOID
        ours.update(prediction, target)
        tensors = torch.from_numpy(prediction)[None], torch.from_numpy(target)[None]
        theirs.update(*tensors)
        jaccard.update(*tensors)
    np.testing.assert_array_equal(ours.counts, theirs.compute().numpy())
    result = ours.result()
    for name, value in zip(CLASSES, jaccard.compute().tolist(), strict=True):
        # torchmetrics says 0 for classes that occur nowhere, we say nan.
        assert np.nan_to_num(result.iou[name]) == pytest.approx(value, abs=1e-6)


def test_real_masks_against_themselves(real: Devkit) -> None:
    counted = ConfusionMatrix()
    for name in real.image_ids("Segmentation/val")[::40]:
        mask = real.mask(name)
        assert mask is not None
        counted.update(np.where(mask == VOID, 0, mask), mask)
    result = counted.result()
    assert result.miou == 1
    assert result.pixels["person"] > 0
