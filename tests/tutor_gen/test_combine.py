"""Stores of several tutors combined by how far they agree, on real stores and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import kdcli
from kdcli.cache.format.record import TutorOutput
from kdcli.cache.writer import CacheWriter
from kdcli.cli import main
from kdcli.common.detections import Detections
from kdcli.common.errors import CacheError
from kdcli.tutor_gen.combine import HOW, combine_boxes, combine_caches, combine_vectors
from kdcli.voc.classes import NUM_CLASSES

CAT, DOG = 8, 12


def boxes(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4].astype(np.uint8), table[:, 5])


FIRST = boxes((0, 0, 10, 10, CAT, 0.5), (50, 50, 60, 60, DOG, 0.25))
SECOND = boxes((0, 0, 10, 8, CAT, 0.75), (0, 0, 10, 10, DOG, 0.5))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("least", [(0, 0, 10, 8, CAT, 0.5)]),
        (
            "mean",
            [
                (0, 0, 10, 8, CAT, 0.625),
                (0, 0, 10, 10, DOG, 0.25),
                (50, 50, 60, 60, DOG, 0.125),
            ],
        ),
        (
            "most",
            [(0, 0, 10, 8, CAT, 0.75), (0, 0, 10, 10, DOG, 0.5), (50, 50, 60, 60, DOG, 0.25)],
        ),
    ],
)
def test_boxes_of_one_class_that_overlap_are_one_object(
    how: str, expected: list[tuple[float, float, float, float, int, float]]
) -> None:
    found = combine_boxes([FIRST, SECOND], how)
    assert np.array_equal(
        np.column_stack([found.boxes, found.labels, found.scores]), np.array(expected)
    )


def test_the_third_tutor_counts_as_much_as_the_first() -> None:
    third = boxes((0, 0, 10, 9, CAT, 0.25))
    (score,) = combine_boxes(
        [FIRST.take(np.array([0])), SECOND.take(np.array([0])), third], "mean"
    ).scores
    assert score == 0.5
    assert len(combine_boxes([FIRST, SECOND, Detections.none()], "least")) == 0
    assert len(combine_boxes([Detections.none(), Detections.none()], "most")) == 0


def vector(**entries: float) -> np.ndarray:
    row = np.zeros(NUM_CLASSES, dtype=np.float32)
    row[[{"cat": CAT, "dog": DOG}[name] for name in entries]] = list(entries.values())
    return row


@pytest.mark.parametrize("how", HOW)
def test_vectors_are_combined_entry_by_entry(how: str) -> None:
    rng = np.random.default_rng(1)
    palettes = [np.stack([vector(), vector(cat=0.5), vector(cat=0.25, dog=0.75)]) for _ in range(3)]
    maps = [rng.integers(0, 3, (7, 9)) for _ in palettes]
    index_map, palette = combine_vectors(list(zip(maps, palettes, strict=True)), how)
    dense = np.stack([palette[index] for palette, index in zip(palettes, maps, strict=True)])
    expected = {"least": dense.min(0), "mean": dense.mean(0), "most": dense.max(0)}[how]
    assert np.allclose(palette[index_map], expected)
    assert not palette[0].any()
    assert len(np.unique(palette, axis=0)) == len(palette)
    assert index_map.dtype == np.uint8


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> kdcli.Devkit:
    return kdcli.make_sample(tmp_path_factory.mktemp("combine") / "voc", images=6, seed=7)


@pytest.fixture(scope="module")
def store(voc: kdcli.Devkit) -> Path:
    path = voc.root.parent / "sample.zarr"
    config = kdcli.generation_config(detection__tutor="sample", segmentation__tutor="sample")
    kdcli.generate(voc, voc.image_ids("Segmentation/train"), kdcli.load_tutors(config), path)
    return path


def other_store(store: Path, path: Path, factor: float) -> Path:
    """The same tutors' store with every confidence multiplied."""
    cache = kdcli.TutorCache.open(store)
    settings = {**cache.settings, "factor": factor}
    with CacheWriter.open(path, cache.entries(), settings, {}) as writer:
        for shard in writer.pending():
            outputs = [cache[entry.image_id] for entry in shard.images]
            writer.write(
                shard,
                [
                    TutorOutput(
                        o.image_id,
                        o.boxes,
                        o.labels,
                        o.scores * np.float32(factor),
                        o.index_map,
                        o.palette * np.float32(factor),
                    )
                    for o in outputs
                ],
            )
        writer.finish()
    return path


@pytest.mark.parametrize(("how", "factor"), [("least", 0.5), ("mean", 0.75), ("most", 1.0)])
def test_a_tutor_and_half_of_its_confidence(
    store: Path, tmp_path: Path, how: str, factor: float
) -> None:
    half = other_store(store, tmp_path / "half.zarr", factor=0.5)
    out = tmp_path / "out.zarr"
    result = CliRunner().invoke(
        main, ["combine-caches", str(store), str(half), "--how", how, "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    both, alone = kdcli.TutorCache.open(out), kdcli.TutorCache.open(store)
    assert both.image_ids == alone.image_ids
    assert both.fingerprint not in (alone.fingerprint, kdcli.TutorCache.open(half).fingerprint)
    objects = 0
    for name in alone:
        first, second = alone[name], both[name]
        assert np.allclose(
            second.palette[second.index_map], first.palette[first.index_map] * factor
        )
        scores = np.sort(first.scores * np.float32(factor))
        assert np.allclose(np.sort(second.scores), scores)
        objects += len(scores)
    assert objects > 10
    summary = CliRunner().invoke(main, ["inspect-cache", str(out), "--verify"])
    assert summary.exit_code == 0, summary.output
    assert f"{how} of" in summary.output


def test_what_cannot_be_combined(voc: kdcli.Devkit, store: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="two caches or more"):
        combine_caches([store], tmp_path / "x", "mean")
    with pytest.raises(CacheError, match="is one of the caches to combine"):
        combine_caches([store, store], store, "mean")
    config = kdcli.generation_config(detection__tutor="sample", segmentation__tutor="sample")
    few = tmp_path / "few.zarr"
    kdcli.generate(voc, voc.image_ids("Segmentation/train")[1:], kdcli.load_tutors(config), few)
    with pytest.raises(CacheError, match=r"lacks 1 of the \d images"):
        combine_caches([store, few], tmp_path / "x", "mean")
    assert combine_caches([few, store], tmp_path / "y", "mean") == len(kdcli.TutorCache.open(few))
