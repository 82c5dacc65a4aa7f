"""Write, then read: the identity, through the direct reader and through two others."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.common.images import ImageEntry

ids = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\n\0"), min_size=1, max_size=12
)
SIDES = st.one_of(st.integers(1, 300), st.sampled_from([1, 640, 1000]))
images = st.lists(
    st.tuples(
        ids,
        SIDES,
        SIDES,
        st.one_of(st.integers(1, 20), st.sampled_from([1, 2, 255, 256, 257, 700])),
        st.one_of(st.integers(0, 10), st.sampled_from([300])),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda image: image[0],
)


def _written(
    drawn: ModuleType, path: Path, given_images: list, masks: bool, per_shard: int
) -> tuple[list[ImageEntry], list[TutorOutput]]:
    entries = [
        ImageEntry(name, h, w, hashlib.sha256(name.encode()).hexdigest())
        for name, h, w, _, _ in given_images
    ]
    outputs = [
        drawn.draw_output(entry, 1, vectors, boxes, boxes % 7 if masks else None)
        for entry, (_, _, _, vectors, boxes) in zip(entries, given_images, strict=True)
    ]
    settings_ = drawn.SETTINGS | {"keep_masks": masks}
    drawn.write_cache(path, outputs, entries, settings_, per_shard)
    return entries, outputs


@given(images, st.booleans(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_reading_returns_what_was_written(
    drawn: ModuleType, quick_folder: Path, given_images: list, masks: bool, per_shard: int
) -> None:
    with tempfile.TemporaryDirectory(dir=quick_folder) as folder:
        path = Path(folder) / "cache.zarr"
        entries, outputs = _written(drawn, path, given_images, masks, per_shard)
        cache = TutorCache.open(path)
        assert cache.image_ids == tuple(entry.image_id for entry in entries)
        for entry, output in zip(entries, outputs, strict=True):
            assert cache[entry.image_id].equals(output)
            assert cache.entry(entry.image_id) == entry
            assert np.array_equal(
                cache[entry.image_id].label_vectors(), output.palette[output.index_map]
            )


def _rows(group: zarr.Group, table: str, column: str, i: int) -> np.ndarray:
    start, stop = group[f"{table}/offsets"][i : i + 2]
    return group[f"{table}/{column}"][start:stop]


@given(images, st.booleans(), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_the_direct_reader_equals_zarr_python(
    drawn: ModuleType, quick_folder: Path, given_images: list, masks: bool, per_shard: int
) -> None:
    with tempfile.TemporaryDirectory(dir=quick_folder) as folder:
        path = Path(folder) / "cache.zarr"
        entries, _ = _written(drawn, path, given_images, masks, per_shard)
        cache, group = TutorCache.open(path), zarr.open_group(path, mode="r")
        for i, entry in enumerate(entries):
            got = cache[entry.image_id]
            pixels = entry.height * entry.width
            low, high = group["label_map"][i], group["label_map_high"][i].astype(np.uint16)
            assert np.array_equal(got.index_map.reshape(-1), (low | high << 8)[:pixels])
            assert not low[pixels:].any()
            assert np.array_equal(got.boxes, _rows(group, "detections", "boxes", i))
            assert np.array_equal(got.labels, _rows(group, "detections", "labels", i))
            assert np.array_equal(got.scores, _rows(group, "detections", "confidences", i))
            assert np.array_equal(got.palette, _rows(group, "palette", "vectors", i))
            assert got.index_map.dtype == (np.uint16 if len(got.palette) > 256 else np.uint8)
            assert (got.instances is not None) == masks
            for column in ("masks", "boxes", "labels", "confidences") if masks else ():
                expected = _rows(group, "instances", column, i)
                field = {"confidences": "scores"}.get(column, column)
                assert np.array_equal(getattr(got.instances, field), expected)


def test_a_third_reader_reads_the_same_store(drawn: ModuleType, tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    path = tmp_path / "cache.zarr"
    outputs = drawn.write_drawn(path)

    def array(name: str) -> np.ndarray:
        store = {"driver": "file", "path": str(path / name)}
        return tensorstore.open({"driver": "zarr3", "kvstore": store}).result().read().result()

    low, high = array("label_map"), array("label_map_high").astype(np.uint16)
    boxes, ends = array("detections/boxes"), array("detections/offsets")
    vectors, bounds = array("palette/vectors"), array("palette/offsets")
    for i, output in enumerate(outputs):
        flat = (low[i] | high[i] << 8)[: output.index_map.size]
        assert np.array_equal(flat.reshape(output.index_map.shape), output.index_map)
        assert np.array_equal(boxes[ends[i] : ends[i + 1]], output.boxes)
        assert np.array_equal(vectors[bounds[i] : bounds[i + 1]], output.palette)


@pytest.mark.parametrize("vectors", [3, 300])
def test_an_image_larger_than_a_chunk_takes_several(
    drawn: ModuleType, tmp_path: Path, vectors: int
) -> None:
    sizes = [(700, 900), (10, 10), (513, 512), (1, 1)]
    entries = [ImageEntry(f"i{k}", h, w, "0" * 64) for k, (h, w) in enumerate(sizes)]
    outputs = [drawn.draw_output(entry, 2, vectors) for entry in entries]
    # All background below the first chunk: a missing chunk in the middle of an image's own.
    outputs[0].index_map.reshape(-1)[2**18 : 2**19] = 0
    drawn.write_cache(tmp_path / "cache.zarr", outputs, entries, images_per_shard=3)
    cache = TutorCache.open(tmp_path / "cache.zarr")
    group = zarr.open_group(tmp_path / "cache.zarr", mode="r")
    assert group["label_map"].chunks == (1, 2**18)
    for i, output in enumerate(outputs):
        assert cache[output.image_id].equals(output)
        low = group["label_map"][i][: output.index_map.size]
        assert np.array_equal(low, output.index_map.reshape(-1) & 255)


def test_bits_survive_where_equality_would_not_tell(drawn: ModuleType, tmp_path: Path) -> None:
    entry = drawn.draw_entries(1)[0]
    output = drawn.draw_output(entry, 0, vectors=3, boxes=2)
    output.palette[0] = -0.0
    output.palette[1, 4] = np.float32(1e-45)  # the smallest subnormal
    output.scores[0] = np.float32(-0.0)
    drawn.write_cache(tmp_path / "cache.zarr", [output], [entry])
    got = TutorCache.open(tmp_path / "cache.zarr")[entry.image_id]
    assert got.palette.tobytes() == output.palette.tobytes()
    assert got.scores.tobytes() == output.scores.tobytes()


def test_arrays_belong_to_the_caller(sound_cache: tuple[Path, list[TutorOutput]]) -> None:
    path, outputs = sound_cache
    cache = TutorCache.open(path)
    first = cache[outputs[0].image_id]
    for array in (first.boxes, first.labels, first.scores, first.index_map, first.palette):
        array[...] = 1
    assert cache[outputs[0].image_id].equals(outputs[0])
