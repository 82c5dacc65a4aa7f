"""Stores of other labels than VOC's: any number of classes, from 2 to 255."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr

from kdcli.cache.checks import check_fits
from kdcli.cache.hdf5 import export_cache, import_cache
from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import summarise
from kdcli.cache.verify import verify
from kdcli.cache.writer import CacheWriter
from kdcli.common.errors import CacheError

NUMBERS = [2, 4, 21, 81, 151, 255]


def settings_of(drawn: ModuleType, classes: int) -> dict:
    names = ["background", *(f"thing {i}" for i in range(1, classes))]
    return drawn.SETTINGS | {"class_names": names, "keep_masks": True}


@pytest.fixture
def written(drawn: ModuleType, tmp_path: Path):
    def write(classes: int) -> tuple[Path, list]:
        entries = drawn.draw_entries(9)
        outputs = [
            drawn.draw_output(e, 3, 300 if i == 2 else 40, 25, 2, classes=classes)
            for i, e in enumerate(entries)
        ]
        path = tmp_path / f"{classes}.zarr"
        drawn.write_cache(path, outputs, entries, settings_of(drawn, classes))
        return path, outputs

    return write


@pytest.mark.parametrize("classes", NUMBERS)
def test_a_store_of_any_number_of_classes_comes_back(written, tmp_path: Path, classes: int) -> None:
    path, outputs = written(classes)
    cache = TutorCache.open(path)
    assert len(cache.class_names) == classes
    assert ("classes" in cache.features) == (classes != 21)
    assert all(cache[output.image_id].equals(output) for output in outputs)
    assert not verify(path)
    arrays = zarr.open_group(path, mode="r")
    stored = np.asarray(arrays["palette/vectors"][:])
    np.testing.assert_array_equal(stored, np.concatenate([output.palette for output in outputs]))
    summary = summarise(cache)
    pixels = sum(output.index_map.size for output in outputs)
    assert len(summary.class_pixels) == classes
    assert sum(summary.class_pixels.values()) == pixels
    export_cache(path, tmp_path / "c.h5")
    import_cache(tmp_path / "c.h5", tmp_path / "again.zarr")
    again = TutorCache.open(tmp_path / "again.zarr")
    assert again.fingerprint == cache.fingerprint
    assert all(again[output.image_id].equals(output) for output in outputs)


def test_a_store_refuses_labels_and_vectors_of_others(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(1)
    settings = settings_of(drawn, 4)
    with CacheWriter.open(tmp_path / "c", entries, settings, {}) as writer:
        (shard,) = writer.pending()
        with pytest.raises(CacheError, match=r"labels 1 to 3"):
            writer.write(shard, [drawn.draw_output(entries[0], 0, 3, 40, 0)])
        with pytest.raises(CacheError, match=r"palette of shape \(3, 4\)"):
            writer.write(shard, [drawn.draw_output(entries[0], 0, 3, 0, 0, classes=5)])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["background"], "2 or more classes"),
        (["background", "cat", "cat"], "each once"),
        ([f"c{i}" for i in range(256)], "at most 255 classes with the background, got 256"),
    ],
)
def test_class_names_that_make_no_store(drawn: ModuleType, tmp_path: Path, names, message) -> None:
    settings = drawn.SETTINGS | {"class_names": names}
    with pytest.raises(CacheError, match=message):
        CacheWriter.open(tmp_path / "c", drawn.draw_entries(1), settings, {})


def test_a_store_of_other_labels_does_not_fit(written) -> None:
    path, _ = written(4)
    cache = TutorCache.open(path)
    check_fits(cache, class_names=cache.class_names)
    with pytest.raises(CacheError, match="the cache lacks thing 4"):
        check_fits(cache, class_names=[*cache.class_names, "thing 4"])
