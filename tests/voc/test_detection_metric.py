from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.common.detections import Detections
from kdcli.tutor_gen.detectron2 import v06 as _detectron2_v06
from kdcli.voc.annotation import Annotation
from kdcli.voc.annotation_xml import annotation_xml
from kdcli.voc.classes import CLASS_IDS, CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import (
    DetectionResult,
    Metric,
    average_precision,
    box_iou,
    evaluate_detections,
)

CAT, DOG = CLASS_IDS["cat"], CLASS_IDS["dog"]
METRICS: tuple[Metric, ...] = ("area", "11point")


def truth(*objects: tuple[int, tuple[float, ...], bool]) -> Annotation:
    return Annotation(
        image_id="any",
        height=200,
        width=200,
        boxes=np.array([box for _, box, _ in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for label, _, _ in objects], dtype=np.int64),
        difficult=np.array([difficult for *_, difficult in objects], dtype=np.bool_),
        truncated=np.zeros(len(objects), dtype=np.bool_),
    )


def said(*found: tuple[int, tuple[float, ...], float]) -> Detections:
    return Detections(
        boxes=np.array([box for _, box, _ in found], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for label, _, _ in found], dtype=np.int64),
        scores=np.array([confidence for *_, confidence in found], dtype=np.float32),
    )


A, B, C = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 90.0, 90.0), (100.0, 0.0, 150.0, 40.0)


def cat_ap(predictions: Any, annotations: Any, metric: Metric = "area") -> float:
    result = evaluate_detections(predictions, annotations, metric=metric)
    return result.average_precision["cat"]


class TestByHand:
    def test_perfect(self) -> None:
        result = evaluate_detections(
            {"1": said((CAT, A, 0.9), (DOG, B, 0.3))},
            {"1": truth((CAT, A, False), (DOG, B, False))},
        )
        assert result.map == 1
        assert result.average_precision["cat"] == result.average_precision["dog"] == 1
        assert np.isnan(result.average_precision["cow"])
        assert (result.objects["cat"], result.detections["dog"], result.images) == (1, 1, 1)

    def test_second_box_on_one_object_is_wrong(self) -> None:
        near = (0.0, 0.0, 10.0, 9.0)
        annotations = {"1": truth((CAT, A, False), (CAT, B, False))}
        # right, wrong (duplicate), right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
        found = said((CAT, A, 0.9), (CAT, near, 0.8), (CAT, B, 0.7))
        assert cat_ap({"1": found}, annotations) == pytest.approx(0.5 + 0.5 * 2 / 3)
        # 6 of the 11 recalls up to 1/2, 5 beyond.
        expected = (6 * 1 + 5 * 2 / 3) / 11
        assert cat_ap({"1": found}, annotations, "11point") == pytest.approx(expected)

    def test_of_two_boxes_on_one_object_the_confident_one_is_right(self) -> None:
        near = (0.0, 0.0, 10.0, 9.0)
        annotations = {"1": truth((CAT, A, False))}
        found = said((CAT, near, 0.2), (CAT, A, 0.1), (CAT, B, 0.9))
        assert cat_ap({"1": found}, annotations) == pytest.approx(0.5)

    def test_equal_confidences_keep_their_order(self) -> None:
        annotations = {"1": truth((CAT, A, False)), "2": truth()}
        right, wrong = said((CAT, A, 0.5)), said((CAT, B, 0.5))
        assert cat_ap({"1": right, "2": wrong}, annotations) == 1
        assert cat_ap({"2": wrong, "1": right}, annotations) == 0.5
        both = said((CAT, B, 0.5), (CAT, A, 0.5))
        assert cat_ap({"1": both}, annotations) == 0.5

    def test_difficult_objects_count_neither_way(self) -> None:
        annotations = {"1": truth((CAT, A, False), (CAT, B, True))}
        found = said((CAT, B, 0.9), (CAT, B, 0.8), (CAT, A, 0.7))
        result = evaluate_detections({"1": found}, annotations)
        assert result.average_precision["cat"] == 1
        assert (result.objects["cat"], result.difficult["cat"]) == (1, 1)

    def test_class_of_difficult_objects_only_is_absent(self) -> None:
        result = evaluate_detections({"1": said((CAT, A, 0.9))}, {"1": truth((CAT, A, True))})
        assert np.isnan(result.average_precision["cat"])
        assert np.isnan(result.map)

    def test_missed_class_counts_into_the_mean(self) -> None:
        annotations = {"1": truth((CAT, A, False)), "2": truth((DOG, B, False))}
        result = evaluate_detections({"1": said((CAT, A, 0.5))}, annotations)
        assert result.average_precision["dog"] == 0
        assert result.map == 0.5

    def test_other_class_or_image_does_not_match(self) -> None:
        annotations = {"1": truth((CAT, A, False)), "2": truth()}
        assert cat_ap({"1": said((DOG, A, 0.9))}, annotations) == 0
        assert cat_ap({"2": said((CAT, A, 0.9))}, annotations) == 0

    def test_overlap_of_exactly_the_threshold_is_not_enough(self) -> None:
        annotations = {"1": truth((CAT, A, False))}
        assert cat_ap({"1": said((CAT, (0, 0, 10, 5.0), 0.9))}, annotations) == 0
        assert cat_ap({"1": said((CAT, (0, 0, 10, 5.01), 0.9))}, annotations) == 1

    def test_a_box_takes_the_object_it_overlaps_most_even_if_taken(self) -> None:
        left, right = (0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 10.0, 8.0)
        annotations = {"1": truth((CAT, left, False), (CAT, right, False))}
        found = said((CAT, left, 0.9), (CAT, (0.0, 0.0, 10.0, 9.5), 0.8))
        assert cat_ap({"1": found}, annotations) == pytest.approx(0.5)

    def test_nothing_said_and_nothing_there(self) -> None:
        assert cat_ap({}, {"1": truth((CAT, A, False))}) == 0
        assert np.isnan(evaluate_detections({}, {}).map)
        assert cat_ap({"1": said()}, {"1": truth((CAT, A, False))}, "11point") == 0

    def test_widths_are_of_inclusive_pixels(self) -> None:
        """Pixels 1..10 and 6..15 in the devkit's numbers share 5 of 15 columns."""
        overlap = box_iou(np.array([[0.0, 0, 10, 1]]), np.array([[5.0, 0, 15, 1]]))
        assert overlap.tolist() == [[pytest.approx(5 / 15)]]

    def test_empty_boxes_overlap_nothing(self) -> None:
        assert box_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]
        assert box_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


class TestRefusals:
    def test_prediction_without_annotation(self) -> None:
        with pytest.raises(ValueError, match=r"got 1 others, e\.g\. '2'"):
            evaluate_detections({"2": said()}, {"1": truth()})

    @pytest.mark.parametrize("label", [0, 21])
    def test_labels(self, label: int) -> None:
        with pytest.raises(ValueError, match=r"Expected labels 1\.\.20"):
            evaluate_detections({"1": said((label, A, 0.5))}, {"1": truth()})

    def test_lengths(self) -> None:
        uneven = Detections(np.zeros((2, 4), np.float32), np.ones(1, int), np.ones(1, np.float32))
        with pytest.raises(ValueError, match=r"Expected boxes \(1, 4\)"):
            evaluate_detections({"1": uneven}, {"1": truth()})

    def test_metric(self) -> None:
        with pytest.raises(ValueError, match="'101point'"):
            average_precision(np.array([1.0]), np.array([1.0]), "101point")  # type: ignore[arg-type]


def random_truth(rng: np.random.Generator, labels: list[int]) -> Annotation:
    objects = []
    for _ in range(int(rng.integers(0, 6))):
        x1, y1 = rng.integers(0, 150, 2)
        width, height = rng.integers(1, 50, 2)
        box = (float(x1), float(y1), float(x1 + width), float(y1 + height))
        objects.append((int(rng.choice(labels)), box, bool(rng.random() < 0.2)))
    return truth(*objects)


def jittered(rng: np.random.Generator, annotation: Annotation, share: float = 0.8) -> Detections:
    """Return the boxes of an annotation, shifted, doubled and missed at random, and wrong ones."""
    chosen = np.repeat(np.arange(len(annotation.labels)), 2)
    chosen = chosen[rng.random(len(chosen)) < share]
    boxes, labels = annotation.boxes[chosen], annotation.labels[chosen]
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.normal(0, 0.12, boxes.shape) * sizes
    corner = rng.uniform(0, 150, (3, 2))
    wrong = np.concatenate([corner, corner + rng.uniform(1, 60, (3, 2))], axis=1)
    present = annotation.labels if len(annotation.labels) else np.array([CAT])
    labels = np.concatenate([labels, rng.choice(present, 3)])
    return Detections(
        boxes=np.concatenate([boxes, wrong]).astype(np.float32),
        labels=labels.astype(np.int64),
        scores=rng.random(len(labels)).astype(np.float32),
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), metric=st.sampled_from(METRICS))
def test_order_and_scale_of_confidences_are_all_that_counts(seed: int, metric: Metric) -> None:
    rng = np.random.default_rng(seed)
    annotations = {str(i): random_truth(rng, [CAT, DOG]) for i in range(5)}
    predictions = {name: jittered(rng, each) for name, each in annotations.items()}
    shuffled = {}
    for name in rng.permutation(list(predictions)):
        each = predictions[str(name)]
        order = rng.permutation(len(each.labels))
        squeezed = each.scores[order] ** 2
        shuffled[str(name)] = Detections(each.boxes[order], each.labels[order], squeezed)
    first, second = (
        evaluate_detections(each, annotations, metric=metric) for each in (predictions, shuffled)
    )
    assert_same(first.average_precision, second.average_precision)
    for value in first.average_precision.values():
        assert np.isnan(value) or 0 <= value <= 1 + 1e-12


def assert_same(
    first: dict[str, float], second: dict[str, float], tolerance: float = 1e-12
) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value == pytest.approx(second[name], abs=tolerance, nan_ok=True), name


@pytest.fixture(scope="module")
def voc_eval() -> Any:
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("Detectron2 is not installed")
    _detectron2_v06.apply()
    from detectron2.evaluation.pascal_voc_evaluation import voc_eval

    return voc_eval


class TestDetectron2:
    """The same numbers as Detectron2's copy of the devkit's program, where it is installed."""

    def compare(
        self,
        voc_eval: Any,
        folder: Path,
        xml: str,
        predictions: dict[str, Detections],
        annotations: dict[str, Annotation],
        threshold: float = 0.5,
    ) -> DetectionResult:
        (folder / "list.txt").write_text("".join(f"{name}\n" for name in annotations))
        results = {
            metric: evaluate_detections(predictions, annotations, threshold, metric)
            for metric in METRICS
        }
        for label, name in enumerate(CLASSES[1:], start=1):
            if results["area"].objects[name] == 0:
                assert np.isnan(results["area"].average_precision[name])
                continue
            lines = []
            for image_id, each in predictions.items():
                for index in np.flatnonzero(each.labels == label):
                    x1, y1, x2, y2 = each.boxes[index].astype(float).tolist()
                    confidence = float(each.scores[index])
                    # Detectron2 gets 1-based boxes in the devkit's result files.
                    lines.append(f"{image_id} {confidence!r} {x1 + 1!r} {y1 + 1!r} {x2!r} {y2!r}\n")
            (folder / f"{name}.txt").write_text("".join(lines))
            for metric in METRICS:
                *_, expected = voc_eval(
                    str(folder / "{}.txt"),
                    xml,
                    str(folder / "list.txt"),
                    name,
                    ovthresh=threshold,
                    use_07_metric=metric == "11point",
                )
                found = results[metric].average_precision[name]
                assert found == pytest.approx(float(expected), abs=1e-12), (name, metric)
        return results["area"]

    @pytest.mark.parametrize("seed", range(6))
    def test_random_boxes(self, voc_eval: Any, tmp_path: Path, seed: int) -> None:
        rng = np.random.default_rng(seed)
        annotations = {f"image{i}": random_truth(rng, [CAT, DOG, 15]) for i in range(12)}
        predictions = {name: jittered(rng, each) for name, each in annotations.items()}
        for name, each in annotations.items():
            (tmp_path / f"{name}.xml").write_text(annotation_xml(each, "any"))
        threshold = float(rng.choice([0.3, 0.5, 0.75]))
        xml = str(tmp_path / "{}.xml")
        result = self.compare(voc_eval, tmp_path, xml, predictions, annotations, threshold)
        assert 0 < result.map < 1

    def test_real_annotations(self, voc_eval: Any, tmp_path: Path, real_voc: Devkit) -> None:
        rng = np.random.default_rng(0)
        annotations = {}
        for name in real_voc.image_ids("Segmentation/val")[::4]:
            annotation = real_voc.annotation(name)
            assert annotation is not None
            annotations[name] = annotation
        predictions = {name: jittered(rng, each) for name, each in annotations.items()}
        xml = str(real_voc.root / "Annotations" / "{}.xml")
        result = self.compare(voc_eval, tmp_path, xml, predictions, annotations)
        assert 0.3 < result.map < 0.95
