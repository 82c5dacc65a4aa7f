"""The reader: what it answers, what it refuses, and who may share it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec

from kdcli.cache.format.layout import ATTRIBUTE
from kdcli.cache.format.record import TutorOutput
from kdcli.cache.format.root import attributes_digest, read_root
from kdcli.cache.reader import TutorCache
from kdcli.cache.reading import mapped
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError, ResourceError
from kdcli.common.files import sha256_file
from kdcli.common.images import ImageEntry

Sound = tuple[Path, list[TutorOutput]]


def test_what_a_cache_says_of_itself(drawn: ModuleType, sound_cache: Sound) -> None:
    path, outputs = sound_cache
    cache = TutorCache.open(str(path))
    assert len(cache) == 10
    assert list(cache) == list(cache.image_ids) == [output.image_id for output in outputs]
    assert outputs[0].image_id in cache
    assert "drawn" not in cache
    assert 3 not in cache
    assert cache.failed == {}
    assert cache.roles == {"detection", "segmentation"}
    assert cache.class_names == tuple(drawn.CLASS_NAMES)
    assert cache.settings == drawn.SETTINGS
    assert cache.provenance["environments"] == [drawn.ENVIRONMENT]
    assert cache.provenance["fingerprint"] == cache.fingerprint
    assert len(cache.fingerprint) == 64
    assert not cache.has_instances
    assert cache.instances(outputs[0].image_id) is None
    assert cache.entry("drawn_002") == drawn.draw_entries(10)[2]


def test_one_part_may_be_asked_for(sound_cache: Sound) -> None:
    path, outputs = sound_cache
    cache = TutorCache.open(path)
    for output in outputs:
        boxes, labels, scores = dataclasses.astuple(cache.boxes(output.image_id))
        assert np.array_equal(boxes, output.boxes)
        assert np.array_equal(labels, output.labels)
        assert np.array_equal(scores, output.scores)
        assert np.array_equal(cache.index_map(output.image_id), output.index_map)
        assert np.array_equal(cache.palette(output.image_id), output.palette)


def test_a_role_may_be_absent(drawn: ModuleType, tmp_path: Path) -> None:
    entry = drawn.draw_entries(1)[0]
    output = drawn.draw_output(entry, vectors=1, boxes=0)
    settings = drawn.SETTINGS | {"detection": None}
    drawn.write_cache(tmp_path / "c", [output], [entry], settings)
    cache = TutorCache.open(tmp_path / "c")
    assert cache.roles == {"segmentation"}
    assert cache[entry.image_id].equals(output)
    assert not (tmp_path / "c" / "label_map" / "c").exists()  # all fill value: nothing stored


def test_unknown_images_are_refused(sound_cache: Sound) -> None:
    cache = TutorCache.open(sound_cache[0])
    for ask in (cache.__getitem__, cache.boxes, cache.index_map, cache.entry):
        with pytest.raises(CacheError, match="no image 'nowhere' in this cache"):
            ask("nowhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), r"no zarr\.json"),
        (lambda p: p.write_bytes(b""), r"no zarr\.json"),
        (lambda p: zarr.create_group(p) and None, "not a tutor cache"),
    ],
)
def test_what_is_no_cache_is_refused(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "c")
    with pytest.raises(CacheError, match=message):
        TutorCache.open(tmp_path / "c")


def _rewrite_root(path: Path, **changes: object) -> None:
    """Change the root's attributes and give it a right digest again."""
    document = json.loads((path / "zarr.json").read_text())
    attributes = document["attributes"][ATTRIBUTE]
    attributes.update(changes)
    attributes.pop("digest")
    attributes["digest"] = attributes_digest(attributes)
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "expected format version 1, got 2"),
        ({"features": ["holograms"]}, "the cache uses holograms, unknown to this kdcli"),
        ({"complete": False}, "incomplete.*goes on where it stopped"),
    ],
)
def test_caches_it_cannot_trust_are_refused(
    spoilable: Path, changes: dict[str, object], message: str
) -> None:
    _rewrite_root(spoilable, **changes)
    with pytest.raises(CacheError, match=message):
        TutorCache.open(spoilable)


def test_a_changed_setting_is_noticed(spoilable: Path) -> None:
    root = spoilable / "zarr.json"
    root.write_text(root.read_text().replace("0.001", "0.002"))
    with pytest.raises(CacheError, match="does not match its digest"):
        TutorCache.open(spoilable)


def test_pickled_it_is_a_path_and_opens_again(sound_cache: Sound, spoilable: Path) -> None:
    cache = TutorCache.open(spoilable)
    content = pickle.dumps(cache)
    assert len(content) < 1000
    assert pickle.loads(content)[sound_cache[1][4].image_id].equals(sound_cache[1][4])
    _rewrite_root(spoilable, fingerprint="0" * 64)
    with pytest.raises(CacheError, match="replaced by another one"):
        pickle.loads(content)


def _read_all(cache: TutorCache, ids: list[str]) -> list[bytes]:
    return [
        cache[image_id].index_map.tobytes() + cache[image_id].boxes.tobytes() for image_id in ids
    ]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_what_the_parent_reads(sound_cache: Sound, method: str) -> None:
    path, outputs = sound_cache
    cache = TutorCache.open(path)
    ids = [output.image_id for output in outputs]
    expected = _read_all(cache, ids)  # the parent's maps are open when it forks
    context = multiprocessing.get_context(method)
    program = (
        "import multiprocessing, sys\n"
        "from kdcli.cache.reader import TutorCache\n"
        "def read(job):\n"
        "    cache, image_id = job\n"
        "    return cache[image_id].index_map.tobytes() + cache[image_id].boxes.tobytes()\n"
        "if __name__ == '__main__':\n"
        "    cache = TutorCache.open(sys.argv[1])\n"
        "    cache[cache.image_ids[0]]\n"
        "    with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:\n"
        "        for content in pool.imap(read, [(cache, i) for i in cache]):\n"
        "            print(content.hex())\n"
    )
    assert context.get_start_method() == method
    script = path.parent / f"{method}.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, script, path, method],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert [bytes.fromhex(line) for line in done.stdout.split("\n")[:-1]] == expected


def test_threads_share_one_reader(sound_cache: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "MAX_MAPS", 2)  # files come and go all the time
    path, outputs = sound_cache
    cache = TutorCache.open(path)
    jobs = [outputs[i] for i in np.random.default_rng(0).integers(0, len(outputs), 2000)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda output: cache[output.image_id].equals(output), jobs))


def test_more_shards_than_a_process_may_open_files(drawn: ModuleType, quick_folder: Path) -> None:
    entries = drawn.draw_entries(400, largest=4)
    outputs = [drawn.draw_output(entry, vectors=3) for entry in entries]
    drawn.write_cache(quick_folder / "many", outputs, entries, images_per_shard=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cache = TutorCache.open(quick_folder / "many")
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 40, hard))
    try:
        assert all(cache[output.image_id].equals(output) for output in outputs)
    finally:
        for handle in taken:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_read_only_cache_is_read(drawn: ModuleType, sound_cache: Sound, tmp_path: Path) -> None:
    path = tmp_path / "mounted"
    path.mkdir()
    source = sound_cache[0]
    if subprocess.run(
        ["mount", "--bind", source, path], capture_output=True, check=False
    ).returncode:
        pytest.skip("may not mount")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        cache = TutorCache.open(path)
        assert all(cache[output.image_id].equals(output) for output in sound_cache[1])
        assert verify(path) == []
        with pytest.raises(ResourceError, match="cannot be written"):
            drawn.write_cache(path, [], drawn.draw_entries(10))
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # the files are mapped still


def _reencode(path: Path, name: str) -> None:
    """Store an array in another way that zarr-python knows, and record the new files."""
    old = zarr.open_array(path / name, mode="r")
    values = old[...]
    shutil.rmtree(path / name)
    array = zarr.create_array(
        path / name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, side // 2) for side in values.shape),
        compressors=GzipCodec(),
    )
    array[...] = values
    files = dict(read_root(path).files)
    files = {file: entry for file, entry in files.items() if not file.startswith(f"{name}/")}
    for file in (p for p in (path / name).rglob("*") if p.is_file()):
        entry = file.stat().st_size, sha256_file(file)
        files[file.relative_to(path).as_posix()] = entry
    _rewrite_root(path, files={file: list(entry) for file, entry in files.items()})


@pytest.mark.parametrize(
    "names",
    [
        ("label_map", "label_map_high"),
        ("palette/vectors",),
        ("detections/boxes",),
        ("detections/offsets", "image_size"),
        ("image_ids", "status", "palette/crc32", "image_sha256"),
    ],
)
def test_a_layout_it_does_not_know_is_read_by_zarr_python(
    drawn: ModuleType, sound_cache: Sound, spoilable: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        _reencode(spoilable, name)
    cache = TutorCache.open(spoilable)
    for output, entry in zip(sound_cache[1], drawn.draw_entries(10), strict=True):
        assert cache[output.image_id].equals(output)
        assert cache.entry(entry.image_id) == entry


def test_damage_that_zarr_python_finds_is_a_cache_error(
    sound_cache: Sound, spoilable: Path
) -> None:
    _reencode(spoilable, "palette/vectors")
    for file in (spoilable / "palette" / "vectors" / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-9] + bytes(9))
    cache = TutorCache.open(spoilable)
    with pytest.raises(CacheError, match="palette"):
        _read_all(cache, [output.image_id for output in sound_cache[1]])


def test_a_missing_file_of_a_layout_it_does_not_know_is_no_fill_value(spoilable: Path) -> None:
    _reencode(spoilable, "label_map")
    _reencode(spoilable, "label_map_high")
    next(p for p in (spoilable / "label_map" / "c").rglob("*") if p.is_file()).unlink()
    with pytest.raises(CacheError, match=r"label_map/c/.*: damaged: expected"):
        TutorCache.open(spoilable)


def test_opening_needs_neither_zarr_nor_torch(sound_cache: Sound) -> None:
    program = (
        "import sys; from kdcli.cache.reader import TutorCache\n"
        "cache = TutorCache.open(sys.argv[1]); cache[cache.image_ids[0]]\n"
        "print(sorted({'zarr', 'torch', 'h5py'} & set(sys.modules)))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, sound_cache[0]],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root)},
    )
    assert done.stdout == "[]\n"


def test_a_list_of_one_image(drawn: ModuleType, tmp_path: Path) -> None:
    entry = ImageEntry("Grüße/from space 🛰", 1, 1, "0" * 64)
    output = drawn.draw_output(entry)
    drawn.write_cache(tmp_path / "c", [output], [entry])
    assert TutorCache.open(tmp_path / "c")[entry.image_id].equals(output)
