"""Label maps that are coarser than their image: kept, read, exchanged, and spread over it."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcli.cache.format.grid import spread, whole_window
from kdcli.cache.hdf5 import export_cache, import_cache
from kdcli.cache.merge import merge_caches
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError


@pytest.fixture
def dense(drawn: ModuleType, tmp_path: Path) -> tuple[Path, list]:
    """A store of grids, one of them with more than 256 vectors, and what was put into it."""
    entries = drawn.draw_entries(9, 5)
    outputs = [
        drawn.draw_output(e, 5, 300 if i == 3 else None, grid=True) for i, e in enumerate(entries)
    ]
    path = tmp_path / "dense.zarr"
    drawn.write_cache(path, outputs, entries, {**drawn.SETTINGS, "grid": True})
    return path, outputs


def test_what_was_written_comes_back(dense: tuple[Path, list]) -> None:
    path, outputs = dense
    cache = TutorCache.open(path)
    assert cache.has_grids
    assert cache.features == {"dropped", "grid", "lookup"}
    assert any(output.index_map.size < np.prod(cache_size(cache, output)) for output in outputs)
    for output in outputs:
        assert cache[output.image_id].equals(output)
        assert np.array_equal(cache.window(output.image_id), output.window)
        assert cache.index_map(output.image_id).shape == output.index_map.shape
    assert verify(path) == []


def cache_size(cache: TutorCache, output: object) -> tuple[int, int]:
    entry = cache.entry(output.image_id)  # type: ignore[attr-defined]
    return entry.height, entry.width


def test_zarr_alone_reads_it(dense: tuple[Path, list]) -> None:
    path, outputs = dense
    group = zarr.open_group(path, mode="r")
    for i, output in enumerate(outputs):
        (row,) = group["grid/cells"][slice(*group["grid/offsets"][i : i + 2])]
        flat = group["label_map"][i, : row.prod()].astype(int)
        flat += 256 * group["label_map_high"][i, : row.prod()].astype(int)
        assert np.array_equal(flat.reshape(row), output.index_map)


def test_it_travels_as_hdf5_and_by_merging(dense: tuple[Path, list], tmp_path: Path) -> None:
    path, outputs = dense
    export_cache(path, tmp_path / "c.h5")
    import_cache(tmp_path / "c.h5", tmp_path / "back.zarr")
    merge_caches([path, tmp_path / "back.zarr"], tmp_path / "merged.zarr")
    for copy in ("back.zarr", "merged.zarr"):
        cache = TutorCache.open(tmp_path / copy)
        assert all(cache[output.image_id].equals(output) for output in outputs)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ([0, 0, 999, 1], r"window x1 y1 x2 y2 within \d+ x \d+ cells"),
        ([1, 0, 1, 1], "window x1 y1 x2 y2 within"),
        ([np.nan, 0, 1, 1], "window x1 y1 x2 y2 within"),
        (None, "the other kind of label map"),
    ],
)
def test_windows_that_cannot_be_are_refused(
    drawn: ModuleType, tmp_path: Path, window: list | None, message: str
) -> None:
    entries = drawn.draw_entries(1, 5)
    output = drawn.draw_output(entries[0], 5, grid=True)
    given = None if window is None else np.array(window, np.float32)
    spoilt = replace(output, window=given)
    with pytest.raises(CacheError, match=message):
        drawn.write_cache(tmp_path / "c", [spoilt], entries, {**drawn.SETTINGS, "grid": True})
    with pytest.raises(CacheError, match="other kind of label map"):
        drawn.write_cache(tmp_path / "d", [output], entries)


@settings(deadline=None, max_examples=50)
@given(
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    pixels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**31),
)
def test_spreading_is_pytorchs_bilinear(
    cells: tuple[int, int], pixels: tuple[int, int], seed: int
) -> None:
    vectors = np.random.default_rng(seed).random((*cells, 3), dtype=np.float32)
    channels_first = torch.from_numpy(vectors).permute(2, 0, 1)[None]
    expected = F.interpolate(channels_first, pixels, mode="bilinear", align_corners=False)
    found = spread(vectors, whole_window(*cells), *pixels)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0), atol=1e-5)


def test_a_window_shows_its_part() -> None:
    """Half of a grid, spread over half as many pixels, is that half of the whole spread."""
    vectors = np.random.default_rng(1).random((6, 8, 2), dtype=np.float32)
    whole = spread(vectors, whole_window(6, 8), 24, 32)
    part = spread(vectors, np.array([2, 3, 6, 6], np.float32), 12, 16)
    np.testing.assert_allclose(part, whole[12:24, 8:24], atol=1e-5)
