"""Whether a cache fits; what is in it; what an image is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcli.cache.checks import check_fits
from kdcli.cache.format.fingerprint import canonical_json, fingerprint, settings_differences
from kdcli.cache.format.record import (
    MASK_ERROR_BOUND,
    FailedImage,
    InstanceMasks,
    TutorOutput,
    decode_dropped,
    encode_dropped,
    quantise_masks,
)
from kdcli.cache.format.root import read_root
from kdcli.cache.hdf5 import export_cache, import_cache
from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import THRESHOLDS, count_class_pixels, summarise
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError

Sound = tuple[Path, list[TutorOutput]]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


def test_a_cache_that_fits_is_accepted(drawn: ModuleType, sound_cache: Sound) -> None:
    cache = TutorCache.open(sound_cache[0])
    check_fits(
        cache, drawn.draw_entries(10)[3:5], roles=["detection"], class_names=drawn.CLASS_NAMES
    )
    check_fits(cache, ["drawn_000", "drawn_009"], roles={"detection", "segmentation"})
    check_fits(cache)


def test_every_difference_is_listed(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(5)
    outputs = [drawn.draw_output(entry) for entry in entries]
    outputs[4] = FailedImage("drawn_004", "broken file")
    drawn.write_cache(tmp_path / "c", outputs, entries, drawn.SETTINGS | {"segmentation": None})
    wanted = [
        "elsewhere",
        "drawn_004",
        dataclasses.replace(entries[1], sha256="1" * 64),
        dataclasses.replace(entries[2], width=999),
    ]
    names = ["background", "cat", *drawn.CLASS_NAMES[2:]]
    with pytest.raises(CacheError) as caught:
        check_fits(
            TutorCache.open(tmp_path / "c"), wanted, roles=["segmentation"], class_names=names
        )
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'c'}: the cache does not fit:\n")
    assert "no segmentation tutor" in message
    assert "the cache has class 1, the data set has cat" in message
    assert "elsewhere: not in the cache" in message
    assert "drawn_004: failed: broken file" in message
    assert "drawn_001: the image file changed" in message
    assert f"drawn_002: {entries[2].width} x {entries[2].height} pixels" in message


def test_a_long_list_of_differences_is_cut(sound_cache: Sound) -> None:
    with pytest.raises(CacheError, match=r"i9: not in the cache\n  \.\.\. and 90 more"):
        check_fits(TutorCache.open(sound_cache[0]), [f"i{i}" for i in range(100)])


@given(mappings, mappings)
def test_settings_differ_where_their_json_does(a: dict, b: dict) -> None:
    lines = settings_differences(a, b)
    assert bool(lines) == (canonical_json(a) != canonical_json(b))
    assert len(settings_differences(b, a)) == len(lines)


@given(mappings)
def test_the_fingerprint_ignores_the_order_of_keys(a: dict) -> None:
    reverse = dict(reversed(a.items()))
    assert fingerprint(a, "0" * 64) == fingerprint(reverse, "0" * 64)
    assert fingerprint(a, "0" * 64) != fingerprint(a, "1" * 64)
    assert fingerprint(a, "0" * 64) != fingerprint({**a, "new key": 1}, "0" * 64)


def test_a_summary_counts_what_is_there(drawn: ModuleType, sound_cache: Sound) -> None:
    path, outputs = sound_cache
    summary = summarise(TutorCache.open(path))
    assert (summary.images, summary.failed, summary.shards) == (10, {}, 3)
    on_disk = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    assert sum(summary.bytes_by_array.values()) == summary.bytes_total == on_disk
    assert summary.bytes_per_image == on_disk / 10
    for threshold in THRESHOLDS:
        kept = [o.labels[o.scores >= np.float32(threshold)] for o in outputs]
        assert summary.boxes_per_image[threshold] == sum(map(len, kept)) / 10
        for label in range(1, 21):
            count = sum(int((labels == label).sum()) for labels in kept)
            assert summary.boxes_per_class[f"class {label}"][threshold] == count
    classes = [
        np.where(vectors.any(-1), vectors.argmax(-1), 0)
        for vectors in (o.label_vectors() for o in outputs)
    ]
    for label, name in enumerate(drawn.CLASS_NAMES):
        assert summary.class_pixels[name] == sum(int((c == label).sum()) for c in classes)
    sizes = sorted(len(output.palette) for output in outputs)
    assert summary.label_vectors == (sizes[0], (sizes[4] + sizes[5]) / 2, sizes[9])
    assert summary.instances_per_image is None
    again = json.loads(json.dumps(summary.to_dict()))
    assert again["boxes_per_image"]["0.001"] == summary.boxes_per_image[0.001]
    assert again["provenance"]["settings"] == drawn.SETTINGS


def test_dropped_counts_are_summed_where_all_are_known(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(5)
    rows = np.arange(50, dtype=np.uint32).reshape(5, 10) * (np.arange(10) != 3)
    outputs = [
        dataclasses.replace(drawn.draw_output(e), dropped=row.astype(np.uint32))
        for e, row in zip(entries, rows, strict=True)
    ]
    drawn.write_cache(tmp_path / "known", outputs, entries)
    summary = summarise(TutorCache.open(tmp_path / "known"))
    assert summary.dropped is not None
    assert summary.dropped["detection"] == {"class": 100, "floor": 105, "empty": 110, "other": 120}
    assert sum(sum(counts.values()) for counts in summary.dropped.values()) == rows.sum()
    assert json.loads(json.dumps(summary.to_dict()))["dropped"] == summary.dropped
    outputs[2] = dataclasses.replace(outputs[2], dropped=None)
    drawn.write_cache(tmp_path / "unknown", outputs, entries)
    assert summarise(TutorCache.open(tmp_path / "unknown")).dropped is None


def test_dropped_counts_by_name() -> None:
    counts = {"detection": {"class": 3, "floor": 70_000}, "segmentation": {"odd": 2, "other": 1}}
    row = encode_dropped(counts)
    assert row.dtype == np.uint32
    assert decode_dropped(row) == {
        "detection": {"class": 3, "floor": 70_000}, "segmentation": {"other": 3},
    }  # fmt: skip
    assert decode_dropped(encode_dropped({})) == {}


def test_a_store_without_dropped_counts_is_read_checked_and_gone_on_with(
    drawn: ModuleType, tmp_path: Path
) -> None:
    entries, path = drawn.draw_entries(6), tmp_path / "c"
    outputs = [dataclasses.replace(drawn.draw_output(e), dropped=None) for e in entries]
    failing = [FailedImage(entries[0].image_id, "broken"), *outputs[1:]]
    drawn.write_cache(path, failing, entries)
    root = read_root(path)
    assert root.features == {"dropped", "lookup"}
    drawn.leave_out(path, "dropped", "lookup")
    assert verify(path) == []
    drawn.write_cache(path, outputs, entries)  # retries the failed image
    assert verify(path) == []
    cache = TutorCache.open(path)
    assert all(cache[output.image_id].equals(output) for output in outputs)
    assert cache.dropped(entries[0].image_id) is None
    export_cache(path, tmp_path / "c.h5")
    import_cache(tmp_path / "c.h5", tmp_path / "back")
    again = TutorCache.open(tmp_path / "back")
    assert all(again[output.image_id].equals(output) for output in outputs)


def test_a_summary_of_failures_only(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(2)
    settings = drawn.SETTINGS | {"keep_masks": True}
    failing = [FailedImage(e.image_id, "broken") for e in entries]
    drawn.write_cache(tmp_path / "c", failing, entries, settings)
    summary = summarise(TutorCache.open(tmp_path / "c"))
    assert summary.images == 0
    assert len(summary.failed) == 2
    assert summary.label_vectors == (0, 0.0, 0)
    assert summary.instances_per_image == 0


def test_class_pixels_by_hand() -> None:
    palette = np.zeros((4, 21), np.float32)
    palette[1, 3], palette[2, 7], palette[2, 3], palette[3, 0] = 0.2, 0.9, 0.8, 0.1
    counts = count_class_pixels(np.array([[0, 0, 1], [2, 2, 3]], np.uint8), palette)
    assert counts[[0, 3, 7]].tolist() == [3, 1, 2]
    assert counts.sum() == 6


def test_outputs_are_compared_bit_for_bit(drawn: ModuleType) -> None:
    entry = drawn.draw_entries(1)[0]
    output = drawn.draw_output(entry, vectors=3, boxes=2, masks=2)
    wide = dataclasses.replace(output, index_map=output.index_map.astype(np.uint16))
    assert output.equals(wide)
    assert (output.height, output.width) == (entry.height, entry.width)
    for name in ("boxes", "scores", "palette", "index_map"):
        other = getattr(output, name).copy()
        other.reshape(-1)[-1] += 1
        assert not output.equals(dataclasses.replace(output, **{name: other}))
    assert not output.equals(dataclasses.replace(output, instances=None))
    assert not output.equals(dataclasses.replace(output, image_id="other"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_quantised_masks_stay_within_the_stated_bound(values: list[float]) -> None:
    exact = np.array(values)
    n = len(exact)
    nowhere, labels = np.zeros((n, 4), np.float32), np.ones(n, np.uint8)
    kept = InstanceMasks(nowhere, labels, np.ones(n, np.float32), quantise_masks(exact))
    back = kept.probabilities()
    assert np.abs(back - exact).max() <= MASK_ERROR_BOUND + 1e-7


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.1"):
        quantise_masks(np.array([0.5, value]))
