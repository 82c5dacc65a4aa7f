"""Stores of the sample tutors at two sizes and of untrained ones, compared; by other ways, too."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import summarise
from kdcli.common.detections import Detections
from kdcli.common.errors import CacheError, TutorError
from kdcli.tutor_gen.comparison.agreement import (
    Agreement,
    ImageDifference,
    agreement,
    most_different,
)
from kdcli.tutor_gen.comparison.compare import Comparison, compare_stores
from kdcli.tutor_gen.comparison.said import Said
from kdcli.tutor_gen.comparison.table import cells
from kdcli.tutor_gen.comparison.thresholds import GRID, best_boxes, best_vectors, deciding_miou
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.quality.evaluate import TutorEvaluation, evaluate_tutors
from kdcli.tutor_gen.quality.mistakes import pixel_mistakes
from kdcli.tutor_gen.quality.stores import store_names
from kdcli.tutor_gen.registry import load_tutors
from kdcli.voc.devkit import Devkit
from kdcli.voc.metrics import ConfusionMatrix
from kdcli.voc.scenes.dataset import make_sample

LIST = "Segmentation/val"
SAMPLE = {"detection__tutor": "sample", "segmentation__tutor": "sample"}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Devkit:
    return make_sample(tmp_path_factory.mktemp("compared") / "voc", 18, seed=7_500_002)


def made(voc: Devkit, name: str, list_name: str = LIST, **settings: object) -> TutorCache:
    out = voc.root.parent / f"{name}.zarr"
    if not out.exists():
        tutors = load_tutors(generation_config(**SAMPLE | settings))
        generate(voc, voc.image_ids(list_name), tutors, out)
    return TutorCache.open(out)


@pytest.fixture(scope="module")
def stores(voc: Devkit) -> dict[str, TutorCache]:
    untrained = {"detection__weights": "random:3", "segmentation__weights": "random:3"}
    return {
        "large": made(voc, "large"),
        "small": made(voc, "small", inference__min_size=72),
        "untrained": made(voc, "untrained", **untrained),
    }


@pytest.fixture(scope="module")
def found(voc: Devkit, stores: dict[str, TutorCache]) -> Comparison:
    return compare_stores(stores, voc, voc.image_ids(LIST))


def test_scores_are_those_of_evaluate_tutors(
    voc: Devkit, stores: dict[str, TutorCache], found: Comparison
) -> None:
    for store, cache in zip(found.stores, stores.values(), strict=True):
        alone = evaluate_tutors(cache, voc, voc.image_ids(LIST))
        assert same_scores(store.evaluation, alone)
        assert store.bytes_per_image == summarise(cache).bytes_per_image
    large, _, untrained = (store.evaluation.detection for store in found.stores)
    assert large is not None
    assert untrained is not None
    assert large.map > untrained.map
    assert found.objects == large.objects


def same_scores(one: TutorEvaluation, other: TutorEvaluation) -> bool:
    """As JSON values: nan is not equal to itself."""
    results = [(e.detection, e.segmentation) for e in (one, other)]
    assert all(result is not None for both in results for result in both)
    first, second = ([r and r.to_dict() for r in both] for both in results)
    return first == second


def test_the_best_thresholds_are_those_of_the_sweeps(found: Comparison) -> None:
    for store in found.stores:
        boxes, vectors = store.best_boxes, store.best_vectors
        assert boxes is not None
        assert vectors is not None
        assert store.thresholds.boxes == boxes.threshold
        assert store.thresholds.vectors == vectors.threshold
        assert boxes.f1 == max(s.f1 for s in store.evaluation.thresholds if s.f1 == s.f1)
        # No class has twenty objects here: all decide.
        assert vectors.miou == max(s.miou for s in store.evaluation.vector_thresholds)
        assert [s.threshold for s in store.evaluation.thresholds] == list(GRID)


def test_frequent_classes_decide_where_there_are_some(found: Comparison) -> None:
    evaluation = found.stores[0].evaluation
    best = best_vectors(evaluation, ("cat", "sofa"))
    assert best is not None
    value = {s.threshold: (s.iou["background"] + s.iou["cat"]) / 2
             for s in evaluation.vector_thresholds}  # fmt: skip
    assert value[best.threshold] == max(value.values())
    assert deciding_miou(best, evaluation, ("cat", "sofa")) == value[best.threshold]


def test_mistakes_are_what_precision_and_recall_count(found: Comparison) -> None:
    """From the best threshold on, which the sweep scores by another way."""
    for store in found.stores:
        best, mistakes = best_boxes(store.evaluation), store.mistakes
        assert best is not None
        assert mistakes is not None
        right, wrong = mistakes.found.sum(), mistakes.invented.sum()
        assert right + mistakes.missed.sum() == sum(found.objects.values())
        assert best.recall == right / sum(found.objects.values())
        assert best.precision == right / (right + wrong)


def test_pixels_are_those_of_label_vectors_laid_out(
    voc: Devkit, stores: dict[str, TutorCache], found: Comparison
) -> None:
    for store, cache in zip(found.stores, stores.values(), strict=True):
        matrix = ConfusionMatrix()
        for image_id in voc.image_ids(LIST):
            matrix.update(class_map(cache, image_id, store.thresholds.vectors), mask(voc, image_id))
        assert store.pixels is not None
        np.testing.assert_array_equal(store.pixels, matrix.counts)
        best = store.best_vectors
        assert best is not None
        assert best.miou == matrix.result().miou
        wrong = pixel_mistakes(store.pixels)
        assert wrong.missed == pytest.approx(1 - wrong.confused - recall(matrix.counts))


def recall(counts: np.ndarray) -> float:
    return float(np.trace(counts[1:, 1:]) / counts[1:].sum())


def mask(voc: Devkit, image_id: str) -> np.ndarray:
    truth = voc.mask(image_id)
    assert truth is not None
    return truth


def class_map(cache: TutorCache, image_id: str, threshold: float) -> np.ndarray:
    vectors = cache[image_id].label_vectors()
    vectors[vectors < threshold] = 0
    return vectors.argmax(axis=2)


def test_agreement_equals_looking_at_each_box_and_pixel(
    voc: Devkit, stores: dict[str, TutorCache], found: Comparison
) -> None:
    assert list(found.agreements) == list(combinations(range(3), 2))
    for (i, j), said in found.agreements.items():
        one, other = found.stores[i], found.stores[j]
        boxes, matched = [0, 0], 0
        pixels = np.zeros((21, 21), np.int64)
        for image_id in voc.image_ids(LIST):
            kept = [s.cache.boxes(image_id) for s in (one, other)]
            kept = [b.take(b.scores >= s.thresholds.boxes)
                    for b, s in zip(kept, (one, other), strict=True)]  # fmt: skip
            boxes = [n + len(b) for n, b in zip(boxes, kept, strict=True)]
            matched += pairs(*kept)
            maps = [class_map(s.cache, image_id, s.thresholds.vectors) for s in (one, other)]
            np.add.at(pixels, (maps[0], maps[1]), 1)
        assert said.boxes == tuple(boxes)
        assert said.matched == matched
        np.testing.assert_array_equal(said.pixels, pixels)
        assert said.shares == (matched / boxes[0], matched / boxes[1])
        assert said.same_class == pytest.approx(np.trace(pixels) / pixels.sum())
        union = pixels.sum(axis=0) + pixels.sum(axis=1) - np.diagonal(pixels)
        expected = np.mean([pixels[c, c] / union[c] for c in range(21) if union[c]])
        assert said.miou == pytest.approx(expected)


def test_images_differ_by_what_all_pairs_differ_in(
    voc: Devkit, stores: dict[str, TutorCache], found: Comparison
) -> None:
    for image_id, difference in zip(voc.image_ids(LIST), found.differences, strict=True):
        assert difference.image_id == image_id
        maps = [class_map(s.cache, image_id, s.thresholds.vectors) for s in found.stores]
        others = [(one != other).mean() for one, other in combinations(maps, 2)]
        assert difference.pixels == pytest.approx(np.mean(others))
        boxes = [s.cache.boxes(image_id) for s in found.stores]
        boxes = [b.take(b.scores >= s.thresholds.boxes)
                 for b, s in zip(boxes, found.stores, strict=True)]  # fmt: skip
        assert difference.boxes == 2 * sum(map(len, boxes))
        matched = sum(pairs(one, other) for one, other in combinations(boxes, 2))
        assert difference.unmatched == difference.boxes - 2 * matched


def pairs(one: Detections, other: Detections) -> int:
    """Match greedily, the largest overlap first, by torchvision's overlaps."""
    iou = torchvision.ops.box_iou(torch.tensor(one.boxes), torch.tensor(other.boxes)).numpy()
    iou[one.labels[:, None] != other.labels[None]] = 0
    count = 0
    while iou.size and iou.max() >= 0.5:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        iou[i], iou[:, j] = 0, 0
        count += 1
    return count


def test_a_store_agrees_with_itself_and_one_alone_is_compared_with_the_truth(
    voc: Devkit, stores: dict[str, TutorCache], found: Comparison
) -> None:
    ids = voc.image_ids(LIST)
    twice = compare_stores({"a": stores["small"], "b": stores["small"]}, voc, ids)
    (same,) = twice.agreements.values()
    assert same.shares == (1, 1)
    assert same.same_class == same.miou == 1
    assert same.unmatched == 0
    assert most_different(twice.differences, 5) == ()
    alone = compare_stores({"small": stores["small"]}, voc, ids)
    assert not alone.agreements
    pixels = found.stores[1].pixels
    assert pixels is not None
    wrong = [(class_map(stores["small"], i, alone.stores[0].thresholds.vectors) != mask(voc, i))[
        mask(voc, i) != 255].mean() for i in ids]  # fmt: skip
    assert [d.pixels for d in alone.differences] == pytest.approx(wrong)


def test_roles_that_a_store_lacks(voc: Devkit, stores: dict[str, TutorCache]) -> None:
    ids = voc.image_ids(LIST)
    boxes = made(voc, "boxes", segmentation__tutor="none")
    vectors = made(voc, "vectors", detection__tutor="none")
    found = compare_stores({"boxes": boxes, "vectors": vectors, "both": stores["large"]}, voc, ids)
    one, other, both = found.stores
    assert one.evaluation.segmentation is one.pixels is one.best_vectors is None
    assert other.evaluation.detection is other.mistakes is other.reliability is None
    assert one.reliability is not None
    assert both.reliability is not None
    assert one.reliability.boxes == both.reliability.boxes
    np.testing.assert_array_equal(other.pixels, both.pixels)
    assert np.isnan(found.agreements[0, 1].shares).all()
    assert np.isnan(found.agreements[0, 1].same_class)
    assert found.agreements[0, 2].shares == (1, 1)
    assert np.isnan(found.agreements[0, 2].miou)
    assert found.agreements[1, 2].miou == 1


def test_an_image_that_failed_counts_as_one_where_nothing_is(tmp_path: Path) -> None:
    voc = make_sample(tmp_path / "voc", 6, seed=7_500_003)
    ids = voc.image_ids(LIST)
    whole = made(voc, "whole")
    path = voc.image_path(ids[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    torn = made(voc, "torn")
    path.write_bytes(content)
    assert list(torn.failed) == [ids[0]]
    found = compare_stores({"whole": whole, "torn": torn}, voc, ids)
    alone = evaluate_tutors(torn, voc, ids)
    assert same_scores(found.stores[1].evaluation, alone)
    assert found.differences[0].unmatched == found.differences[0].boxes > 0
    assert found.agreements[0, 1].shares[0] < 1


def test_stores_of_other_images_are_refused(
    tmp_path: Path, voc: Devkit, stores: dict[str, TutorCache]
) -> None:
    ids = voc.image_ids(LIST)
    train = made(voc, "train", "Segmentation/train")
    with pytest.raises(TutorError, match=rf"{len(ids)} images.*\n  .*train.zarr lacks {len(ids)},"):
        compare_stores({"large": stores["large"], "train": train}, voc, ids)
    other = make_sample(tmp_path / "voc", 18, seed=7_500_002)
    path = other.image_path(ids[1])
    path.write_bytes(other.image_path(ids[0]).read_bytes())
    with pytest.raises(CacheError, match=rf"large.zarr was made from other .*\n  {ids[1]}"):
        compare_stores({"large": stores["large"]}, other, ids)


def test_names(tmp_path: Path) -> None:
    assert store_names([tmp_path / "a.zarr", tmp_path / "b"]) == ("a", "b")
    paths = [tmp_path / "one" / "c.zarr", tmp_path / "two" / "c.zarr"]
    assert store_names(paths) == tuple(map(str, paths))
    with pytest.raises(TutorError, match=r"c.zarr is named twice"):
        store_names([paths[0], paths[1], tmp_path / "one" / ".." / "one" / "c.zarr"])


def test_images_that_differ_most() -> None:
    same, pixels, more = (ImageDifference(*v) for v in
                          (("a", 4, 0, 0.0), ("b", 2, 0, 0.5), ("c", 2, 0, 0.9)))  # fmt: skip
    crowd, pair = ImageDifference("d", 9, 9, 0.1), ImageDifference("e", 2, 2, 0.0)
    half = ImageDifference("f", 8, 4, 0.0)
    every = [same, pixels, more, half, pair, crowd]
    assert most_different(every, 4) == (more, pixels, crowd, pair)
    assert most_different(every, 9) == (more, pixels, crowd, pair, half)
    assert most_different([same, half], 2) == (half,)


def test_void_is_no_disagreement() -> None:
    one = Said(None, np.array([[0, 8, 255]]))
    other = Said(None, np.array([[0, 255, 8]]))
    found = agreement(one, other)
    assert found.pixels.sum() == found.same_class == 1
    assert found.plus(Agreement.none()).matched == 0


def test_the_best_cells_are_marked() -> None:
    def marked(values: list[float | None]) -> list[bool]:
        return [cell.best for cell in cells(values, best=max)]

    assert marked([0.1, 0.3, None]) == [False, True, False]
    assert marked([0.3001, 0.3, 0.2]) == [True, True, False]
    assert marked([0.3, 0.3]) == [False, False]
    assert marked([None, 0.3]) == [False, False]
    assert [cell.text for cell in cells([0.5, None, float("nan")])] == ["50.0", "-", "-"]
    assert [cell.best for cell in cells([2.0, 1.0], best=min)] == [False, True]
