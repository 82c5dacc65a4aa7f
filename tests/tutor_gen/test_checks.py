from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.tutors.checks import check_instances
from kdcli.tutor_gen.tutors.tutor import Instances

HEIGHT, WIDTH = 10, 20


def instances(*boxes: tuple[float, float, float, float]) -> Instances:
    n = len(boxes)
    return Instances(
        boxes=np.array(boxes, dtype=np.float32).reshape(n, 4),
        labels=np.full(n, 3, dtype=np.uint8),
        scores=np.full(n, 0.5, dtype=np.float32),
        masks=np.ones((n, HEIGHT, WIDTH), dtype=np.bool_),
        dropped={"class": 2},
    )


def check(found: Instances) -> Instances:
    return check_instances(found, "2007_000001", HEIGHT, WIDTH)


def test_what_is_possible_stays_as_it_is() -> None:
    found = instances((0, 0, 20, 10), (1.5, 2, 3, 4))
    checked = check(found)
    np.testing.assert_array_equal(checked.boxes, found.boxes)
    np.testing.assert_array_equal(checked.scores, found.scores)
    assert checked.dropped == {"class": 2}
    assert len(check(instances())) == 0


def test_rounding_overhang_is_clipped_and_counted() -> None:
    checked = check(instances((-0.5, 0, 20.9, 10), (1, 1, 2, 2)))
    assert checked.boxes.tolist() == [[0, 0, 20, 10], [1, 1, 2, 2]]
    assert checked.dropped == {"class": 2, "clipped": 1}


def test_boxes_without_area_are_left_out_with_their_masks() -> None:
    checked = check(instances((5, 5, 5, 8), (1, 1, 2, 2), (20, 3, 20.5, 4)))
    assert checked.boxes.tolist() == [[1, 1, 2, 2]]
    assert checked.masks is not None
    assert len(checked.masks) == 1
    assert checked.dropped == {"class": 2, "clipped": 1, "empty": 2}


def test_confidences_just_above_one_are_rounding() -> None:
    found = replace(instances((1, 1, 2, 2)), scores=np.array([1.000001], dtype=np.float32))
    assert check(found).scores.tolist() == [1.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": [[np.nan, 0, 1, 1]]}, "NaN or infinite"),
        ({"scores": [np.inf]}, "NaN or infinite"),
        ({"boxes": [[3, 0, 1, 1]]}, r"x1 <= x2 and y1 <= y2, got \[3.0, 0.0, 1.0, 1.0\]"),
        ({"boxes": [[0, 0, 22, 1]]}, "within 20 x 10 pixels, got"),
        ({"boxes": [[-1.5, 0, 2, 1]]}, "within 20 x 10 pixels, got"),
        ({"labels": [0]}, r"class ids 1\.\.20, got \[0\]"),
        ({"labels": [21]}, r"class ids 1\.\.20, got \[21\]"),
        ({"scores": [1.1]}, r"confidences 0\.\.1"),
        ({"scores": [-0.1]}, r"confidences 0\.\.1"),
        ({"scores": [0.5, 0.5]}, "of shapes"),
        ({"boxes": [[0, 0, 1]]}, "of shapes"),
        ({"masks": np.ones((1, WIDTH, HEIGHT), dtype=np.bool_)}, "of shapes"),
        ({"masks": np.ones((1, HEIGHT, WIDTH), dtype=np.int32)}, "bool or uint8, got int32"),
        ({"distributions": np.zeros((1, 20), np.float32)}, r"distributions of shape \(1, 21\)"),
        ({"distributions": np.full((1, 21), np.nan, np.float32)}, r"distributions within 0\.\.1"),
        ({"distributions": np.zeros((1, 21), np.float32)}, "to hold its confidence"),
    ],
)
def test_what_cannot_be_true_is_refused_with_the_image_named(
    changed: dict[str, Any], message: str
) -> None:
    found = instances((1, 1, 2, 2))
    given = {
        k: v if isinstance(v, np.ndarray) else np.asarray(v, dtype=getattr(found, k).dtype)
        for k, v in changed.items()
    }
    with pytest.raises(TutorError, match=rf"image 2007_000001: .*{message}"):
        check(replace(found, **given))
