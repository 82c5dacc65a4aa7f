"""Caches as one HDF5 file and back, and several caches merged into one: exact both ways."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.format.root import attributes_digest
from kdcli.cache.hdf5 import export_cache, import_cache
from kdcli.cache.merge import merge_caches
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError, ResourceError

Sound = tuple[Path, list[TutorOutput]]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def varied_cache(drawn: ModuleType, tmp_path: Path) -> Path:
    """With instance masks, a failed image, many label vectors, and an image without anything."""
    entries = drawn.draw_entries(9)
    vectors = {2: 300, 5: 1}
    outputs = [drawn.draw_output(e, 0, vectors.get(i), masks=i % 4) for i, e in enumerate(entries)]
    outputs[7] = FailedImage("drawn_007", "Grüße, no image")
    settings = drawn.SETTINGS | {"keep_masks": True}
    drawn.write_cache(tmp_path / "varied.zarr", outputs, entries, settings)
    return tmp_path / "varied.zarr"


def test_exported_and_imported_a_cache_is_the_same(varied_cache: Path, tmp_path: Path) -> None:
    export_cache(varied_cache, tmp_path / "cache.h5")
    import_cache(tmp_path / "cache.h5", tmp_path / "back.zarr")
    assert files_of(tmp_path / "back.zarr") == files_of(varied_cache)
    assert verify(tmp_path / "back.zarr") == []


def test_an_export_keeps_every_environment(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(3)
    for version in ("1", "2"):
        with drawn.CacheWriter.open(tmp_path / "c", entries, drawn.SETTINGS, {"torch": version}):
            pass
    drawn.write_cache(tmp_path / "c", [drawn.draw_output(e) for e in entries], entries)
    export_cache(tmp_path / "c", tmp_path / "cache.h5")
    import_cache(tmp_path / "cache.h5", tmp_path / "back")
    expected = [{"torch": "1"}, {"torch": "2"}, drawn.ENVIRONMENT]
    assert TutorCache.open(tmp_path / "back").provenance["environments"] == expected


def test_an_export_says_how_it_is_read(
    sound_cache: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, outputs = sound_cache
    export_cache(path, tmp_path / "cache.h5")
    monkeypatch.chdir(tmp_path)
    with h5py.File("cache.h5", "r") as file:
        example = file.attrs["how_to_read"]
    for output in outputs:
        names: dict[str, np.ndarray] = {}
        exec(example.replace("2007_000032", output.image_id), names)
        assert np.array_equal(names["label_map"], output.index_map)
        assert np.array_equal(names["label_vectors"], output.label_vectors())
        assert np.array_equal(names["boxes"], output.boxes)
        assert np.array_equal(names["labels"], output.labels)
        assert np.array_equal(names["confidences"], output.scores)


def test_exporting_refuses_what_it_cannot_do(sound_cache: Sound, tmp_path: Path) -> None:
    there = tmp_path / "there.h5"
    there.write_bytes(b"mine")
    with pytest.raises(CacheError, match="exists already"):
        export_cache(sound_cache[0], there)
    assert there.read_bytes() == b"mine"
    with pytest.raises(CacheError, match="no such folder"):
        export_cache(tmp_path / "nothing", tmp_path / "new.h5")
    with pytest.raises(ResourceError, match="cannot be written"):
        export_cache(sound_cache[0], there / "new.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there.h5"]


def test_a_damaged_cache_is_not_exported(spoilable: Path, tmp_path: Path) -> None:
    file = spoilable / "label_map" / "c" / "1" / "0"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(CacheError, match="label_map/c/1/0: damaged"):
        export_cache(spoilable, tmp_path / "new.h5")
    assert not list(tmp_path.glob("new.h5*"))


def _spoil(change, tmp_path: Path, cache: Path) -> Path:
    path = tmp_path / "spoilt.h5"
    export_cache(cache, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _set(name: str, index: object, value: object):
    def change(file: h5py.File) -> None:
        file[name][index] = value

    return change


def _rewrite_about(rewrite):
    def change(file: h5py.File) -> None:
        file.attrs.modify("tutor_cache", rewrite(file.attrs["tutor_cache"]))

    return change


OTHER_VERSION = json.dumps(
    {"format_version": 9, "digest": attributes_digest({"format_version": 9})}
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("detections/confidences", 0, 0.123), "does not match its digest"),
        (_set("palette/vectors", (1, 1), 0.9), "does not match its digest"),
        (_set("label_map", (0, 0), 1), "does not match its digest"),
        (_set("image_sha256", (0, 0), 1), "expected the fingerprint"),
        (lambda file: file.attrs.pop("tutor_cache"), "not an exported tutor cache"),
        (_rewrite_about(lambda text: text.replace("0.001", "0.002")), "its attributes changed"),
        (lambda file: file.attrs.modify("tutor_cache", OTHER_VERSION), "format version 1, got 9"),
    ],
)
def test_importing_notices_changes(drawn: ModuleType, tmp_path: Path, change, message: str) -> None:
    entries = drawn.draw_entries(2)
    outputs = [drawn.draw_output(e, vectors=3, boxes=2) for e in entries]
    outputs[0].index_map.reshape(-1)[0] = 0
    drawn.write_cache(tmp_path / "c", outputs, entries)
    spoilt = _spoil(change, tmp_path, tmp_path / "c")
    with pytest.raises(CacheError, match=message):
        import_cache(spoilt, tmp_path / "new")


def test_flipped_bits_of_an_export_are_noticed(sound_cache: Sound, tmp_path: Path) -> None:
    path, outputs = sound_cache
    export_cache(path, tmp_path / "cache.h5")
    sound = (tmp_path / "cache.h5").read_bytes()
    for attempt in range(20):
        content = bytearray(sound)
        content[attempt * len(content) // 20 + 7] ^= 8
        (tmp_path / "cache.h5").write_bytes(content)
        out = tmp_path / f"back{attempt}"
        try:
            import_cache(tmp_path / "cache.h5", out)
        except CacheError:
            continue
        back = TutorCache.open(out)
        assert all(back[output.image_id].equals(output) for output in outputs)


def test_what_is_no_hdf5_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"nothing of the sort")
    with pytest.raises(CacheError, match=r"a\.h5: cannot be read as HDF5"):
        import_cache(tmp_path / "a.h5", tmp_path / "new")
    with pytest.raises(CacheError, match=r"b\.h5: cannot be read as HDF5"):
        import_cache(tmp_path / "b.h5", tmp_path / "new")


def test_merged_caches_equal_one_made_of_all_images(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(11)
    outputs = [drawn.draw_output(e, 0, 300 if i == 8 else None) for i, e in enumerate(entries)]
    drawn.write_cache(tmp_path / "all", outputs, entries)
    for name, part in (("a", slice(0, 5)), ("b", slice(5, 9)), ("c", slice(7, 11))):
        drawn.write_cache(tmp_path / name, outputs[part], entries[part])
    result = merge_caches([tmp_path / n for n in "abc"], tmp_path / "merged")
    assert result.images == 11
    assert result.repeated == ("drawn_007", "drawn_008")
    assert result.differing == ()
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "all")


def test_merging_prefers_an_output_to_a_failure(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(3)
    outputs = [drawn.draw_output(e) for e in entries]
    lost = FailedImage("drawn_001", "lost")
    drawn.write_cache(tmp_path / "a", [outputs[0], lost, outputs[2]], entries)
    drawn.write_cache(tmp_path / "b", outputs[:2], entries[:2])
    merge_caches([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    merged = TutorCache.open(tmp_path / "merged")
    assert merged.failed == {}
    assert merged.image_ids == ("drawn_000", "drawn_001", "drawn_002")
    assert all(merged[output.image_id].equals(output) for output in outputs)
    merge_caches([tmp_path / "a"], tmp_path / "alone")
    assert TutorCache.open(tmp_path / "alone").failed == {"drawn_001": "lost"}


def test_merging_tells_where_caches_disagree(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(2)
    outputs = [drawn.draw_output(e, boxes=2) for e in entries]
    moved = dataclasses.replace(outputs[1], scores=outputs[1].scores / np.float32(2))
    moved.scores[0] = 0.25
    drawn.write_cache(tmp_path / "a", outputs, entries)
    drawn.write_cache(tmp_path / "b", [moved], entries[1:])
    result = merge_caches([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert result.differing == ("drawn_001",)
    assert TutorCache.open(tmp_path / "merged")["drawn_001"].equals(outputs[1])


def test_merging_refuses_what_does_not_belong_together(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(2)
    outputs = [drawn.draw_output(e) for e in entries]
    drawn.write_cache(tmp_path / "a", outputs, entries)
    drawn.write_cache(tmp_path / "b", outputs, entries, drawn.SETTINGS | {"detection_floor": 0.5})
    changed = [dataclasses.replace(entries[0], sha256="1" * 64), entries[1]]
    drawn.write_cache(tmp_path / "c", outputs, changed)
    with pytest.raises(CacheError, match=r"detection_floor: 0.001 in the cache, now 0.5"):
        merge_caches([tmp_path / "a", tmp_path / "b"], tmp_path / "new")
    with pytest.raises(CacheError, match="drawn_000: the image file changed"):
        merge_caches([tmp_path / "a", tmp_path / "c"], tmp_path / "new")
    with pytest.raises(CacheError, match="one of the caches to merge"):
        merge_caches([tmp_path / "a", tmp_path / "c"], tmp_path / "c")
    with pytest.raises(CacheError, match="at least one cache"):
        merge_caches([], tmp_path / "new")
    assert not (tmp_path / "new").exists()
