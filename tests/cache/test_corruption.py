"""Damage of every kind: detected, named, never read as data."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from kdcli.cache.format.codec import encode_index
from kdcli.cache.format.record import TutorOutput
from kdcli.cache.format.root import read_root
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError

Sound = tuple[Path, list[TutorOutput]]
GROUPS = ("detections", "palette", "dropped", "lookup")
REPEATED = ("image_ids", "image_size", "status", "label_crc32", "offsets", "crc32")
"""Arrays that a reader with a lookup does not need."""


def read_all(cache: TutorCache, outputs: list[TutorOutput]) -> None:
    for output in outputs:
        cache[output.image_id]


def wrong_images(path: Path, outputs: list[TutorOutput]) -> tuple[list[str], list[str]]:
    """Ids of the images read wrongly without an error, and the errors of the others."""
    try:
        cache = TutorCache.open(path)
    except CacheError as error:
        return [], [str(error)]
    wrong, errors = [], []
    for output in outputs:
        try:
            if not cache[output.image_id].equals(output):
                wrong.append(output.image_id)
        except CacheError as error:
            errors.append(str(error))
    return wrong, errors


def needed(path: Path, file: Path) -> bool:
    """Whether reading outputs takes this file."""
    name = file.relative_to(path).as_posix()
    if name in [f"{group}/zarr.json" for group in GROUPS] or "image_sha256" in name:
        return False
    with_lookup = "lookup" in read_root(path).features
    return not with_lookup or not any(f"{array}/" in name for array in REPEATED)


@pytest.mark.parametrize(("earlier", "fewest"), [(False, 120), (True, 300)])
def test_no_flipped_bit_is_read_as_data(
    drawn: ModuleType, sound_cache: Sound, spoilable: Path, earlier: bool, fewest: int
) -> None:
    _, outputs = sound_cache
    if earlier:
        drawn.leave_out(spoilable, "lookup")
    files = sorted(p for p in spoilable.rglob("*") if p.is_file())
    rng = random.Random(7)
    noticed = 0
    for attempt in range(400):
        file = files[attempt % len(files)]
        sound = file.read_bytes()
        spoilt = bytearray(sound)
        bit = rng.randrange(8 * len(spoilt))
        spoilt[bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoilt)
        wrong, errors = wrong_images(spoilable, outputs)
        assert wrong == []
        noticed += bool(errors)
        problems = verify(spoilable)
        assert any(str(file) in problem for problem in problems), (file, bit)
        assert all("again" in problem or "kdcli" in problem for problem in problems)
        file.write_bytes(sound)
    # The rest hit what no read needs: what the lookup repeats, and the codecs' own checks of
    # columns that are read by row.
    assert noticed > fewest
    assert wrong_images(spoilable, outputs) == ([], [])


def test_every_byte_of_a_label_shard_matters_to_the_reader(
    sound_cache: Sound, spoilable: Path
) -> None:
    _, outputs = sound_cache
    file = spoilable / "label_map" / "c" / "0" / "0"
    sound = file.read_bytes()
    for position in range(0, len(sound), 3):
        file.write_bytes(sound[:position] + bytes([sound[position] ^ 64]) + sound[position + 1 :])
        wrong, errors = wrong_images(spoilable, outputs[:4])
        assert wrong == []
        assert errors
        assert all(str(file) in error for error in errors)


def _data_files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("c/**/*") if p.is_file())


def test_a_truncated_file_is_an_error_and_not_a_crash(sound_cache: Sound, spoilable: Path) -> None:
    _, outputs = sound_cache
    for file in _data_files(spoilable):
        sound, read = file.read_bytes(), needed(spoilable, file)
        for length in (0, 1, len(sound) // 2, len(sound) - 1):
            file.write_bytes(sound[:length])
            wrong, errors = wrong_images(spoilable, outputs)
            assert wrong == []
            if read:
                assert any(f"{file}: damaged: expected {len(sound)} bytes" in e for e in errors)
            assert any(str(file) in problem for problem in verify(spoilable))
        file.write_bytes(sound)


def test_a_deleted_file_is_noticed(sound_cache: Sound, spoilable: Path) -> None:
    _, outputs = sound_cache
    for file in sorted(p for p in spoilable.rglob("*") if p.is_file()):
        sound, read = file.read_bytes(), needed(spoilable, file)
        file.unlink()
        wrong, errors = wrong_images(spoilable, outputs)
        assert wrong == []
        assert bool(errors) == read
        problems = verify(spoilable)
        assert any(str(file.parent if file.parent == spoilable else file) in p for p in problems)
        file.write_bytes(sound)


def test_the_list_of_digests_is_checked_when_it_is_read(
    sound_cache: Sound, spoilable: Path
) -> None:
    file = spoilable / "image_sha256" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    cache = TutorCache.open(spoilable)
    with pytest.raises(CacheError, match="image_sha256/c/0/0: damaged"):
        cache.entries()


@pytest.mark.parametrize("name", ["label_map/c/0/0", "palette/vectors/c/0/0"])
def test_a_file_truncated_while_it_is_mapped_does_not_kill_the_reader(
    sound_cache: Sound, spoilable: Path, name: str
) -> None:
    _, outputs = sound_cache
    cache = TutorCache.open(spoilable)
    assert cache[outputs[0].image_id].equals(outputs[0])
    with (spoilable / name).open("r+b") as handle:
        handle.truncate(0)
    # Another image's rows: those of the first may still lie decoded in memory.
    with pytest.raises(CacheError, match=f"{name}: damaged: expected"):
        read_all(cache, outputs)


def test_swapped_shards_are_noticed(sound_cache: Sound, spoilable: Path) -> None:
    _, outputs = sound_cache
    first, second = (spoilable / "label_map" / "c" / str(i) / "0" for i in (0, 1))
    a, b = first.read_bytes(), second.read_bytes()
    # Of one length, so that the comparison of sizes does not notice: the index keeps its place.
    longest = max(len(a), len(b))
    index = 4 * 16 + 4
    a, b = (
        content[:-index] + bytes(longest - len(content)) + content[-index:] for content in (a, b)
    )
    first.write_bytes(b)
    second.write_bytes(a)
    wrong, errors = wrong_images(spoilable, outputs)
    assert wrong == []
    assert len(errors) == 8
    assert {str(first), str(second)} <= {p.split(": ")[0] for p in verify(spoilable)}


def test_swapped_chunks_behind_a_sound_index_are_noticed(
    sound_cache: Sound, spoilable: Path
) -> None:
    _, outputs = sound_cache
    file = spoilable / "label_map" / "c" / "0" / "0"
    content = file.read_bytes()
    entries = np.frombuffer(content[-68:-4], dtype="<u8").reshape(4, 2)
    file.write_bytes(content[:-68] + encode_index(entries[[1, 0, 2, 3]]))
    wrong, errors = wrong_images(spoilable, outputs)
    assert wrong == []
    assert len(errors) == 2
    assert "an image's label map is not the one that was written" in errors[0]


def test_tables_of_another_cache_are_noticed(
    sound_cache: Sound, spoilable: Path, tmp_path: Path
) -> None:
    _, outputs = sound_cache
    file = spoilable / "detections" / "boxes" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[:16], content[16:32] = content[16:32], content[:16]  # two boxes trade places
    file.write_bytes(content)
    wrong, errors = wrong_images(spoilable, outputs)
    assert wrong == []
    assert "an image's rows are not the ones that were written" in errors[0]
    assert "detections" in errors[0]


def test_a_stranger_among_the_files_is_reported(spoilable: Path) -> None:
    stranger = spoilable / "label_map" / "c" / "9" / "0"
    stranger.parent.mkdir()
    stranger.write_bytes(b"x")
    assert verify(spoilable) == [f"{stranger}: not part of this cache. Remove it."]


def test_verify_says_nothing_of_a_sound_cache(sound_cache: Sound) -> None:
    assert verify(sound_cache[0]) == []
    seen = []

    def progress(items, total, label):
        seen.append((label, total))
        return items

    assert verify(str(sound_cache[0]), progress) == []
    assert [label for label, _ in seen] == ["checking files", "decoding images"]


def test_verify_names_what_is_no_cache(tmp_path: Path) -> None:
    (problem,) = verify(tmp_path / "nothing")
    assert problem.startswith(f"{tmp_path / 'nothing'}: no such folder")


def test_one_bad_file_is_reported_once(spoilable: Path) -> None:
    file = spoilable / "label_map" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-5])
    shutil.rmtree(spoilable / "image_size" / "c")
    assert sorted(p.split(": ")[0] for p in verify(spoilable)) == sorted(
        [str(file), str(spoilable / "image_size" / "c" / "0" / "0")]
    )
