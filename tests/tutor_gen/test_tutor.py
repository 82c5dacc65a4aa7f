from __future__ import annotations

import numpy as np

from kdcli.tutor_gen.tutors.tutor import Instances, Tutor


def three() -> Instances:
    return Instances(
        boxes=np.arange(12, dtype=np.float32).reshape(3, 4),
        labels=np.array([1, 2, 3], dtype=np.uint8),
        scores=np.array([0.9, 0.5, 0.1], dtype=np.float32),
        masks=np.arange(12).reshape(3, 2, 2) % 5 == 0,
        dropped={"class": 4},
        distributions=np.eye(3, 21, dtype=np.float32),
    )


def test_the_sample_tutors_are_tutors(detection_tutor: Tutor, segmentation_tutor: Tutor) -> None:
    assert isinstance(detection_tutor, Tutor)
    assert isinstance(segmentation_tutor, Tutor)


def test_select_takes_every_field_along_and_counts_the_rest() -> None:
    found = three()
    kept = found.select(found.scores >= 0.3, "floor")
    assert kept.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(kept.boxes, found.boxes[:2])
    assert kept.masks is not None
    assert found.masks is not None
    np.testing.assert_array_equal(kept.masks, found.masks[:2])
    np.testing.assert_array_equal(kept.distributions, np.eye(2, 21))
    assert kept.dropped == {"class": 4, "floor": 1}
    assert kept.select(kept.labels == 1, "floor").dropped == {"class": 4, "floor": 2}


def test_select_by_indices_reorders_and_loses_nothing() -> None:
    found = three().select(np.array([2, 0, 1]), "order")
    assert found.labels.tolist() == [3, 1, 2]
    assert found.dropped == {"class": 4}
    assert found.select(np.ones(3, dtype=np.bool_), "all") is found


def test_detectors_without_masks_stay_without() -> None:
    found = three()
    boxes_only = Instances(found.boxes, found.labels, found.scores)
    assert boxes_only.select(found.labels > 1, "class").masks is None
    assert len(boxes_only) == 3
