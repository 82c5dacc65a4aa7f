from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.labels.hard import code_label_vectors


def slow_label_vectors(
    masks: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    height: int,
    width: int,
) -> NDArray[np.float32]:
    """The definition, pixel by pixel: largest confidence per class of the covering instances."""
    vectors = np.zeros((height, width, 21), dtype=np.float32)
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for y in range(height):
            for x in range(width):
                touched = x + 1 > x1 and x < x2 and y + 1 > y1 and y < y2
                if touched and masks[index, y, x]:
                    entry = vectors[y, x, labels[index]]
                    vectors[y, x, labels[index]] = max(entry, scores[index])
    return vectors


def check(
    masks: NDArray[np.bool_],
    labels: NDArray[np.uint8],
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
) -> None:
    """Coded equals slow, and the palette is canonical."""
    height, width = masks.shape[1:]
    index_map, palette = code_label_vectors(masks, labels, scores, height, width, boxes)
    slow = slow_label_vectors(masks, labels, scores, boxes, height, width)
    np.testing.assert_array_equal(palette[index_map], slow)
    assert palette.dtype == np.float32
    assert index_map.dtype == (np.uint8 if len(palette) <= 256 else np.uint16)
    assert not palette[0].any()
    rows = [tuple(row) for row in palette.tolist()]
    assert rows == sorted(set(rows))
    assert set(np.unique(index_map)) | {0} == set(range(len(palette)))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_coded_equals_the_definition(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    n = data.draw(st.integers(0, 8))
    labels = rng.integers(1, data.draw(st.sampled_from([2, 4, 21])), n).astype(np.uint8)
    # Few distinct confidences, so that equal ones meet.
    scores = rng.choice([0.0, 0.25, 0.5, 0.9, 1.0, 0.3], n).astype(np.float32)
    corners = rng.uniform(-1, [width + 1, height + 1], (2, n, 2))
    boxes = np.concatenate([corners.min(0), corners.max(0)], axis=1).astype(np.float32)
    if data.draw(st.booleans()):
        boxes = boxes.round()
    check(rng.random((n, height, width)) < 0.6, labels, scores, boxes)


def test_more_than_256_distinct_vectors_take_sixteen_bits() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((12, 40, 40)) < 0.5
    labels = np.arange(1, 13, dtype=np.uint8)
    scores = rng.uniform(0.1, 1, 12).astype(np.float32)
    boxes = np.tile(np.array([0, 0, 40, 40], dtype=np.float32), (12, 1))
    index_map, palette = code_label_vectors(masks, labels, scores, 40, 40, boxes)
    assert index_map.dtype == np.uint16
    assert len(palette) > 256
    check(masks, labels, scores, boxes)


def test_of_one_class_the_larger_confidence_stays_whatever_the_order() -> None:
    masks = np.ones((2, 2, 3), dtype=np.bool_)
    masks[0, :, 2] = False
    for scores in ([0.3, 0.8], [0.8, 0.3]):
        index_map, palette = code_label_vectors(
            masks, np.array([7, 7], np.uint8), np.array(scores, np.float32), 2, 3
        )
        vectors = palette[index_map]
        assert vectors[0, 0, 7] == np.float32(0.8)
        assert vectors[0, 2, 7] == np.float32(scores[1])


def test_positive_mask_outside_the_box_does_not_count() -> None:
    masks = np.ones((1, 4, 6), dtype=np.bool_)
    box = np.array([[1.0, 1.2, 3.5, 2.0]], dtype=np.float32)
    index_map, palette = code_label_vectors(
        masks, np.array([3], np.uint8), np.array([0.5], np.float32), 4, 6, box
    )
    expected = np.zeros((4, 6))
    expected[1:2, 1:4] = 0.5
    np.testing.assert_array_equal(palette[index_map][..., 3], expected)


def test_no_instances_give_the_zero_vector_everywhere() -> None:
    empty = np.zeros(0, dtype=np.float32)
    index_map, palette = code_label_vectors(
        np.zeros((0, 5, 4), np.bool_), empty.astype(np.uint8), empty, 5, 4
    )
    assert index_map.shape == (5, 4)
    assert not index_map.any()
    assert palette.shape == (1, 21)


def test_palettes_are_the_same_however_the_instances_are_ordered() -> None:
    rng = np.random.default_rng(3)
    masks = rng.random((6, 9, 9)) < 0.5
    labels = rng.integers(1, 21, 6).astype(np.uint8)
    scores = rng.uniform(0.1, 1, 6).astype(np.float32)
    first = code_label_vectors(masks, labels, scores, 9, 9)
    order = rng.permutation(6)
    second = code_label_vectors(masks[order], labels[order], scores[order], 9, 9)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_too_many_vectors_are_refused() -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((20, 300, 300)) < 0.5
    labels = np.arange(1, 21, dtype=np.uint8)
    scores = rng.uniform(0.1, 1, 20).astype(np.float32)
    with pytest.raises(TutorError, match=r"at most 65536 distinct label vectors .* got \d+"):
        code_label_vectors(masks, labels, scores, 300, 300)
