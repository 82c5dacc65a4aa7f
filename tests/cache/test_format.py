"""The format's description: its example runs, and what it states holds."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import zarr
from numcodecs import zstd

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.format.root import CONVENTIONS

Sound = tuple[Path, list[TutorOutput]]
TEXT = resources.files("kdcli.cache").joinpath("FORMAT.md").read_text(encoding="utf-8")


def test_the_example_reads_a_cache_with_zarr_alone(
    sound_cache: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, outputs = sound_cache
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert set(re.findall(r"^import (\w+)", example, re.MULTILINE)) == {"numpy", "zarr"}
    assert "from " not in example
    monkeypatch.chdir(path.parent)
    for output in outputs:
        names: dict[str, np.ndarray] = {}
        exec(example.replace("2007_000032", output.image_id), names)
        assert np.array_equal(names["label_map"], output.index_map)
        assert np.array_equal(names["label_vectors"], output.label_vectors())
        fields = {
            "boxes": "boxes",
            "labels": "labels",
            "confidences": "scores",
            "palette": "palette",
        }
        for name, field in fields.items():
            assert np.array_equal(names[name], getattr(output, field))


def test_every_array_of_a_store_is_described(sound_cache: Sound) -> None:
    group = zarr.open_group(sound_cache[0], mode="r")
    names = [name for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert len(names) == 21
    for name in names:
        table, _, column = name.rpartition("/")
        assert f"`{name}`" in TEXT or (f"`{table}/" in TEXT and f"`{column}`" in TEXT), name


def test_every_attribute_is_described(sound_cache: Sound) -> None:
    attributes = zarr.open_group(sound_cache[0], mode="r").attrs["tutor_cache"]
    for key in attributes:
        assert f"`{key}`" in TEXT, key
    assert attributes["conventions"] == CONVENTIONS


def test_digests_follow_from_the_description(sound_cache: Sound) -> None:
    def canonical(value: object) -> str:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    path, _ = sound_cache
    group = zarr.open_group(path, mode="r")
    about = dict(group.attrs["tutor_cache"])
    assert about.pop("digest") == canonical(about)
    parts = {key: about[key] for key in ("format_version", "settings", "images_sha256")}
    assert about["fingerprint"] == canonical(parts)
    ids = group["image_ids"][:].tobytes().decode().split("\n")
    rows = zip(ids, group["image_size"][:], group["image_sha256"][:], strict=True)
    lines = "".join(f"{i}\t{h}\t{w}\t{sha.tobytes().hex()}\n" for i, (h, w), sha in rows)
    assert about["images_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    for name, (size, digest) in about["files"].items():
        content = (path / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)
    on_disk = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert on_disk == {*about["files"], "zarr.json"}


def test_a_label_map_is_found_as_described(sound_cache: Sound) -> None:
    path, outputs = sound_cache
    group = zarr.open_group(path, mode="r")
    width, (_, chunk) = group["label_map"].shape[1], group["label_map"].chunks
    per_shard, per_image = group["label_map"].shards[0], width // chunk
    for i, output in enumerate(outputs):
        crc = 0
        for plane in ("label_map", "label_map_high")[: 1 + (len(output.palette) > 256)]:
            file = path / plane / "c" / str(i // per_shard) / "0"
            content = file.read_bytes() if file.exists() else None
            found = None
            if content is not None:
                index = content[-(16 * per_shard * per_image + 4) : -4]
                start, length = np.frombuffer(index, "<u8").reshape(-1, 2)[i % per_shard]
                found = content[start : start + length] if start < 2**64 - 1 else None
            crc = zlib.crc32(len(found or b"").to_bytes(4, "little"), crc)
            crc = zlib.crc32(found or b"", crc)
            values = np.frombuffer(zstd.decompress(found), np.uint8) if found else np.zeros(chunk)
            pixels = values[: output.index_map.size].reshape(output.index_map.shape)
            shift = 8 if plane.endswith("high") else 0
            assert np.array_equal(pixels, output.index_map >> shift & 255)
        assert crc == group["label_crc32"][i]


def test_the_lookup_is_found_as_described(sound_cache: Sound) -> None:
    path, outputs = sound_cache
    group = zarr.open_group(path, mode="r")
    about, buckets = group.attrs["tutor_cache"], group["lookup/buckets"][:]
    assert "lookup" in about["features"]
    tables = ("detections", "palette", "dropped")
    for i, output in enumerate(outputs):
        digest = hashlib.sha256(output.image_id.encode()).digest()[:16]
        bucket = int.from_bytes(digest[:8], "big") * len(buckets) // 2**64
        first, count, check = struct.unpack("<QII", buckets[bucket].tobytes())
        rows = group["lookup/ids"][first : first + count]
        assert check == zlib.crc32(rows.tobytes(), bucket + 1)
        assert digest + i.to_bytes(8, "little") in [row.tobytes() for row in rows]
        row = group["lookup/images"][i].tobytes()
        entry = struct.pack("<ii", *group["image_size"][i]) + group["image_sha256"][i].tobytes()
        entry += struct.pack("<I", group["label_crc32"][i])
        for table in tables:
            start, stop = group[f"{table}/offsets"][i : i + 2].tolist()
            entry += struct.pack("<QII", start, stop - start, group[f"{table}/crc32"][i])
        assert row == entry + struct.pack("<I", zlib.crc32(entry, i + 1))


def test_rows_have_the_check_sum_that_is_described(sound_cache: Sound) -> None:
    path, outputs = sound_cache
    group = zarr.open_group(path, mode="r")
    for i, output in enumerate(outputs):
        rows = output.boxes.tobytes() + output.labels.tobytes() + output.scores.tobytes()
        assert group["detections/crc32"][i] == zlib.crc32(rows)
        assert group["palette/crc32"][i] == zlib.crc32(output.palette.tobytes())
