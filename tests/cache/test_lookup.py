"""The lookup: it finds every image and no other, tells damage, and may be absent."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.cache.format.lookup import BUCKET_ROW, ID_ROW, bucket_of, build_lookup, id_digest
from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.format.root import read_root
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError
from kdcli.common.files import sha256_file

Sound = tuple[Path, list[TutorOutput]]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=200, unique=True))
def test_each_id_lies_in_its_bucket_once(ids: list[str]) -> None:
    ids = [image_id for image_id in ids if image_id.isprintable()] or ["one"]
    n = len(ids)
    outcome = {"label_crc32": np.zeros(n, np.uint32)}
    sizes, digests = np.zeros((n, 2), np.int32), np.zeros((n, 32), np.uint8)
    _, rows, buckets = build_lookup(ids, sizes, digests, outcome, ())
    found = []
    for bucket, directory in enumerate(buckets):
        first, count, _ = BUCKET_ROW.unpack(directory.tobytes())
        for row in rows[first : first + count]:
            digest, position = ID_ROW.unpack(row.tobytes())
            assert digest == id_digest(ids[position])
            assert bucket_of(digest, len(buckets)) == bucket
            found.append(position)
    assert sorted(found) == list(range(n))


def test_many_images_are_found_and_no_others(drawn: ModuleType, quick_folder: Path) -> None:
    entries = drawn.draw_entries(500, largest=4)
    outputs = [drawn.draw_output(entry, vectors=3) for entry in entries]
    drawn.write_cache(quick_folder / "found", outputs, entries, images_per_shard=100)
    cache = TutorCache.open(quick_folder / "found")
    assert all(cache[output.image_id].equals(output) for output in outputs)
    assert [cache.entry(entry.image_id) for entry in entries] == entries == cache.entries()
    assert not any(f"other_{i:03d}" in cache for i in range(500))
    assert "\udcff" not in cache


def test_a_store_of_an_earlier_version_says_the_same(
    sound_cache: Sound, without_lookup: Path
) -> None:
    new, old = TutorCache.open(sound_cache[0]), TutorCache.open(without_lookup)
    assert (new.features - old.features, old.image_ids) == ({"lookup"}, new.image_ids)
    assert old.entries() == new.entries()
    for output in sound_cache[1]:
        assert output.image_id in old
        assert old[output.image_id].equals(output)
        assert old.entry(output.image_id) == new.entry(output.image_id)
    assert "drawn" not in old
    assert verify(without_lookup) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_images_that_failed_are_known_and_tried_again(
    drawn: ModuleType, tmp_path: Path, earlier: bool
) -> None:
    entries, path = drawn.draw_entries(6), tmp_path / "c"
    outputs = [drawn.draw_output(entry) for entry in entries]
    failed = entries[2].image_id
    drawn.write_cache(path, [*outputs[:2], FailedImage(failed, "broken"), *outputs[3:]], entries)
    if earlier:
        drawn.leave_out(path, "lookup")
    cache = TutorCache.open(path)
    assert cache.failed == {failed: "broken"}
    assert (failed in cache, failed in cache.image_ids, len(cache)) == (False, False, 5)
    assert cache.entry(failed) == entries[2]
    with pytest.raises(CacheError, match="it failed: broken"):
        cache[failed]
    drawn.write_cache(path, outputs, entries)
    cache = TutorCache.open(path)
    assert "lookup" in cache.features
    assert all(cache[output.image_id].equals(output) for output in outputs)
    assert verify(path) == []


@pytest.mark.parametrize("name", ["images", "ids", "buckets"])
def test_every_byte_of_a_row_matters(sound_cache: Sound, spoilable: Path, name: str) -> None:
    _, outputs = sound_cache
    file = spoilable / "lookup" / name / "c" / "0" / "0"
    sound = file.read_bytes()
    rows = 1 if name == "buckets" else len(outputs)  # what follows in the chunk is padding
    width = {"images": 96, "ids": 24, "buckets": 16}[name]
    for position in range(0, rows * width, 5):
        file.write_bytes(sound[:position] + bytes([sound[position] ^ 4]) + sound[position + 1 :])
        cache, errors = TutorCache.open(spoilable), list[str]()
        for output in outputs:
            try:
                assert output.image_id in cache
                assert cache[output.image_id].equals(output)
            except CacheError as error:
                errors.append(str(error))
        assert errors
        assert all("lookup" in error for error in errors)


@pytest.mark.parametrize("name", ["images", "ids", "buckets"])
def test_zeros_are_no_rows(sound_cache: Sound, spoilable: Path, name: str) -> None:
    file = spoilable / "lookup" / name / "c" / "0" / "0"
    size = len(file.read_bytes())
    index = file.read_bytes()[-20:]  # of the one chunk
    file.write_bytes(bytes(size - 20) + index)
    cache = TutorCache.open(spoilable)
    for output in sound_cache[1]:
        with pytest.raises(CacheError, match=r"lookup.*damaged"):
            cache[output.image_id]


def test_rows_that_trade_places_are_noticed(sound_cache: Sound, spoilable: Path) -> None:
    _, outputs = sound_cache
    file = spoilable / "lookup" / "images" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[:96], content[96:192] = content[96:192], content[:96]
    file.write_bytes(content)
    cache = TutorCache.open(spoilable)
    for output in outputs[:2]:
        with pytest.raises(CacheError, match="a row is not the one that was written"):
            cache[output.image_id]
    assert cache[outputs[2].image_id].equals(outputs[2])


def test_a_lookup_that_contradicts_the_arrays_is_reported(
    drawn: ModuleType, sound_cache: Sound, spoilable: Path, tmp_path: Path
) -> None:
    """One of the same images in another order, and sound in itself."""
    other = tmp_path / "other"
    entries = drawn.draw_entries(10)[::-1]
    drawn.write_cache(other, sound_cache[1], entries)
    shutil.rmtree(spoilable / "lookup")
    shutil.copytree(other / "lookup", spoilable / "lookup")
    root = read_root(spoilable)
    files = {
        name: ((spoilable / name).stat().st_size, sha256_file(spoilable / name))
        for name in root.files
    }
    replace(root, files=files).write(spoilable)
    problems = verify(spoilable)
    for array in ("images", "ids"):
        assert any(f"lookup/{array}: says something else" in problem for problem in problems)
    cache = TutorCache.open(spoilable)
    for output in sound_cache[1]:
        with pytest.raises(CacheError):
            cache[output.image_id]


def test_a_lookup_of_another_shape_is_refused(
    drawn: ModuleType, sound_cache: Sound, spoilable: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    drawn.write_drawn(other, 9)
    file = spoilable / "lookup" / "ids" / "zarr.json"
    file.write_bytes((other / "lookup" / "ids" / "zarr.json").read_bytes())
    root = read_root(spoilable)
    entry = file.stat().st_size, sha256_file(file)
    replace(root, files={**root.files, "lookup/ids/zarr.json": entry}).write(spoilable)
    with pytest.raises(CacheError, match="lookup/ids: damaged"):
        TutorCache.open(spoilable)
