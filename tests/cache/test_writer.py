"""The writer: what it refuses, what it resumes, what it retries."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zarr

from kdcli.cache.format.layout import label_spec
from kdcli.cache.format.record import FailedImage, InstanceMasks, TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.cache.writer import CacheWriter
from kdcli.common.errors import BusyError, CacheError
from kdcli.common.images import ImageEntry


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def open_writer(drawn: ModuleType, path: Path, entries: list[ImageEntry], **changed) -> CacheWriter:
    settings = changed.pop("settings", drawn.SETTINGS)
    environment = changed.pop("environment", drawn.ENVIRONMENT)
    return CacheWriter.open(path, entries, settings, environment, images_per_shard=4, **changed)


def test_pending_shrinks_shard_by_shard(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(10)
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        shards = writer.pending()
        assert [len(shard.images) for shard in shards] == [4, 4, 2]
        assert [e for shard in shards for e in shard.images] == entries
        writer.write(shards[1], [drawn.draw_output(e) for e in shards[1].images])
        assert [shard.index for shard in writer.pending()] == [0, 2]
        assert not writer.complete
        with pytest.raises(CacheError, match="shard 0 of 3 is not done"):
            writer.finish()


def test_a_resumed_cache_equals_an_undisturbed_one(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(10)
    outputs = {e.image_id: drawn.draw_output(e) for e in entries}
    drawn.write_cache(tmp_path / "whole", list(outputs.values()), entries)
    for step in range(3):
        with open_writer(drawn, tmp_path / "resumed", entries) as writer:
            assert len(writer.pending()) == 3 - step
            shard = writer.pending()[-1]
            writer.write(shard, [outputs[e.image_id] for e in shard.images])
    with pytest.raises(CacheError, match="incomplete"):
        TutorCache.open(tmp_path / "resumed")
    with open_writer(drawn, tmp_path / "resumed", entries) as writer:
        assert writer.pending() == ()
        writer.finish()
        writer.finish()
    assert files_of(tmp_path / "resumed") == files_of(tmp_path / "whole")


def test_a_complete_cache_has_nothing_pending_and_is_left_alone(
    drawn: ModuleType, spoilable: Path
) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in spoilable.rglob("*.json")}
    with open_writer(drawn, spoilable, drawn.draw_entries(10)) as writer:
        assert writer.complete
        assert writer.pending() == ()
        writer.finish()
    assert before == {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in before}


def test_another_environment_is_recorded_and_not_refused(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(2)
    open_writer(drawn, tmp_path / "c", entries, environment={"torch": "1"}).close()
    open_writer(drawn, tmp_path / "c", entries, environment={"torch": "2"}).close()
    open_writer(drawn, tmp_path / "c", entries, environment={"torch": "1"}).close()
    drawn.write_cache(tmp_path / "c", [drawn.draw_output(e) for e in entries], entries)
    provenance = TutorCache.open(tmp_path / "c").provenance
    assert provenance["environments"] == [{"torch": "1"}, {"torch": "2"}, drawn.ENVIRONMENT]


def test_other_settings_are_refused_and_the_differences_shown(
    drawn: ModuleType, spoilable: Path
) -> None:
    changed = drawn.SETTINGS | {
        "detection": {"name": "drawn", "weights_sha256": "cd" * 32, "floor": [1, 2]},
        "segmentation": None,
    }
    with pytest.raises(CacheError) as caught:
        open_writer(drawn, spoilable, drawn.draw_entries(10), settings=changed)
    message = str(caught.value)
    assert f'detection.weights_sha256: "{"ab" * 32}" in the cache, now "{"cd" * 32}"' in message
    assert "detection.floor: absent in the cache, now [1, 2]" in message
    assert 'segmentation.name: "drawn" in the cache, now absent' in message
    assert "detection_floor" not in message
    assert not (spoilable / ".lock").exists()


def test_another_list_of_images_is_refused(drawn: ModuleType, spoilable: Path) -> None:
    entries = drawn.draw_entries(10)
    with pytest.raises(CacheError, match="drawn_009: in the cache, but not in the list now"):
        open_writer(drawn, spoilable, entries[:-1])
    with pytest.raises(CacheError, match="new: not in the cache"):
        open_writer(drawn, spoilable, [*entries, ImageEntry("new", 1, 1, "0" * 64)])
    with pytest.raises(CacheError, match="the same images in another order"):
        open_writer(drawn, spoilable, entries[::-1])


@pytest.mark.parametrize("complete", [True, False])
def test_an_image_that_changed_since_is_refused(
    drawn: ModuleType, tmp_path: Path, complete: bool
) -> None:
    entries = drawn.draw_entries(6)
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        for shard in writer.pending() if complete else writer.pending()[:1]:
            writer.write(shard, [drawn.draw_output(e) for e in shard.images])
        if complete:
            writer.finish()
    entries[2] = dataclasses.replace(entries[2], sha256="1" * 64)
    with pytest.raises(CacheError, match="drawn_002: the image file changed"):
        open_writer(drawn, tmp_path / "c", entries)


def test_an_image_not_labelled_yet_may_change(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(6)
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        shard = writer.pending()[0]
        writer.write(shard, [drawn.draw_output(e) for e in shard.images])
        old = writer.fingerprint
    entries[5] = ImageEntry("drawn_005", 3, 4, "1" * 64)
    drawn.write_cache(tmp_path / "c", [drawn.draw_output(e) for e in entries], entries)
    drawn.write_cache(tmp_path / "d", [drawn.draw_output(e) for e in entries], entries)
    cache = TutorCache.open(tmp_path / "c")
    assert cache.fingerprint != old
    assert cache.fingerprint == TutorCache.open(tmp_path / "d").fingerprint
    assert cache["drawn_005"].index_map.shape == (3, 4)
    assert verify(tmp_path / "c") == []


def test_failed_images_are_recorded_and_a_rerun_retries_just_those(
    drawn: ModuleType, tmp_path: Path
) -> None:
    entries = drawn.draw_entries(10)
    outputs = {e.image_id: drawn.draw_output(e, vectors=300) for e in entries}
    drawn.write_cache(tmp_path / "whole", list(outputs.values()), entries)
    broken = {"drawn_001": "truncated JPEG", "drawn_008": "not a JPEG", "drawn_009": "empty"}
    failing = [FailedImage(i, broken[i]) if i in broken else o for i, o in outputs.items()]
    drawn.write_cache(tmp_path / "c", failing, entries)
    cache = TutorCache.open(tmp_path / "c")
    assert cache.failed == broken
    assert len(cache) == 7
    assert "drawn_008" not in cache
    assert verify(tmp_path / "c") == []
    with pytest.raises(CacheError, match="drawn_008 has no output, it failed: not a JPEG"):
        cache["drawn_008"]

    before = files_of(tmp_path / "c")
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        pending = writer.pending()
        assert [[e.image_id for e in shard.images] for shard in pending] == [
            ["drawn_001"],
            ["drawn_008", "drawn_009"],
        ]
        writer.write(pending[0], [FailedImage("drawn_001", "truncated JPEG")])
        assert [shard.index for shard in writer.pending()] == [2]
        writer.finish()
    assert files_of(tmp_path / "c") == before  # nothing new: nothing touched

    with open_writer(drawn, tmp_path / "c", entries) as writer:
        shard = writer.pending()[1]
        writer.write(shard, [outputs["drawn_008"], FailedImage("drawn_009", "still empty")])
        with pytest.raises(CacheError, match="incomplete"):
            TutorCache.open(tmp_path / "c")
    with open_writer(drawn, tmp_path / "c", entries) as writer:  # killed before finish
        for shard in writer.pending():
            writer.write(shard, [outputs[e.image_id] for e in shard.images])
        writer.finish()
    assert files_of(tmp_path / "c") == files_of(tmp_path / "whole")


def test_a_failed_image_may_be_repaired(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(5)
    entries[1] = ImageEntry("drawn_001", 0, 0, "0" * 64)  # an unreadable file has no size
    outputs = [drawn.draw_output(e) for e in entries if e.height]
    drawn.write_cache(tmp_path / "c", [FailedImage("drawn_001", "no image"), *outputs], entries)
    assert verify(tmp_path / "c") == []
    entries[1] = ImageEntry("drawn_001", 5, 6, "1" * 64)
    outputs.append(drawn.draw_output(entries[1]))
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        assert [shard.images for shard in writer.pending()] == [(entries[1],)]
    drawn.write_cache(tmp_path / "c", outputs, entries)
    cache = TutorCache.open(tmp_path / "c")
    assert all(cache[output.image_id].equals(output) for output in outputs)
    assert verify(tmp_path / "c") == []
    entries[1] = ImageEntry("drawn_001", 5, 6, "2" * 64)
    with pytest.raises(CacheError, match="drawn_001: the image file changed"):
        open_writer(drawn, tmp_path / "c", entries)


def test_an_image_larger_than_the_layout_is_refused(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(5)
    failing = [FailedImage(e.image_id, "broken") for e in entries]
    drawn.write_cache(tmp_path / "c", failing, entries)
    assert len(TutorCache.open(tmp_path / "c")) == 0
    entries[0] = ImageEntry("drawn_000", 1000, 1000, "1" * 64)
    with pytest.raises(CacheError, match="drawn_000 now has more pixels"):
        open_writer(drawn, tmp_path / "c", entries)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("label_map/c/1/0", {1}),
        ("palette/vectors/c/0/0", {0}),  # the byte changed below is one of the first images'
        ("status/c/0", set()),  # made again from the others
        ("lookup/ids/c/0/0", set()),
        ("lookup/images/c/0/0", {1}),
        ("image_ids/c/0", {0, 1, 2}),  # everything hangs on it
    ],
)
def test_a_rerun_redoes_the_damaged_part_of_a_complete_cache(
    drawn: ModuleType,
    sound_cache: tuple[Path, list[TutorOutput]],
    spoilable: Path,
    name: str,
    expected: set[int],
) -> None:
    file = spoilable / name
    content = bytearray(file.read_bytes())
    content[min(len(content) // 3, 400)] ^= 16
    file.write_bytes(content)
    entries = drawn.draw_entries(10)
    outputs = {output.image_id: output for output in sound_cache[1]}
    with open_writer(drawn, spoilable, entries) as writer:
        assert writer.damaged == (name,)
        pending = {shard.index for shard in writer.pending()}
        assert pending == expected
        for shard in writer.pending():
            writer.write(shard, [outputs[e.image_id] for e in shard.images])
        writer.finish()
    assert files_of(spoilable) == files_of(sound_cache[0])


def test_a_damaged_part_or_label_shard_of_a_run_under_way_is_redone(
    drawn: ModuleType, tmp_path: Path
) -> None:
    entries = drawn.draw_entries(12)
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        for shard in writer.pending():
            writer.write(shard, [drawn.draw_output(e) for e in shard.images])
    part = tmp_path / "c" / ".parts" / "000000.part"
    part.write_bytes(part.read_bytes()[:-1])
    (tmp_path / "c" / "label_map" / "c" / "2" / "0").unlink()
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        assert [shard.index for shard in writer.pending()] == [0, 2]


def test_a_second_generator_is_refused(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(2)
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import drawn; from kdcli.common.errors import KdcliError\n"
        "try: drawn.CacheWriter.open(sys.argv[1], drawn.draw_entries(2), drawn.SETTINGS, {})\n"
        "except KdcliError as error: print(error)\n"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", program, tmp_path / "c", here, here.parents[1]]
    with open_writer(drawn, tmp_path / "c", entries):
        second = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "is generating into this cache" in second.stdout
        with pytest.raises(BusyError, match="this process is generating"):
            open_writer(drawn, tmp_path / "c", entries)
    third = subprocess.run(command, capture_output=True, text=True, check=True)
    assert third.stdout == ""


def test_the_lock_of_a_killed_generator_is_no_obstacle(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(2)
    open_writer(drawn, tmp_path / "c", entries).close()
    (tmp_path / "c" / ".lock").write_text("process 1 on nowhere")
    drawn.write_cache(tmp_path / "c", [drawn.draw_output(e) for e in entries], entries)
    assert verify(tmp_path / "c") == []


def test_a_folder_of_something_else_is_refused_and_untouched(
    drawn: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(CacheError, match="no tutor cache"):
        open_writer(drawn, tmp_path / "photos", drawn.draw_entries(2))
    zarr.create_group(tmp_path / "zarr")
    before = files_of(tmp_path / "zarr")
    with pytest.raises(CacheError, match="not a tutor cache"):
        open_writer(drawn, tmp_path / "zarr", drawn.draw_entries(2))
    assert files_of(tmp_path / "zarr") == before
    with pytest.raises(CacheError, match="a file lies there"):
        open_writer(drawn, tmp_path / "photos" / "a.jpg", drawn.draw_entries(2))
    assert files_of(tmp_path / "photos") == {"a.jpg": b"x"}


def test_outputs_of_other_images_are_refused(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(4)
    with open_writer(drawn, tmp_path / "c", entries) as writer:
        shard = writer.pending()[0]
        outputs = [drawn.draw_output(e) for e in entries]
        with pytest.raises(CacheError, match="expected outputs of"):
            writer.write(shard, outputs[::-1])
        with pytest.raises(CacheError, match="expected outputs of"):
            writer.write(shard, outputs[:-1])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "at least one image"),
        ([ImageEntry("a", 1, 1, "0" * 64)] * 2, "a: the image is listed twice"),
        ([ImageEntry("a\nb", 1, 1, "0" * 64)], "image id of one line"),
        ([ImageEntry("", 1, 1, "0" * 64)], "image id of one line"),
        ([ImageEntry("a", -1, 1, "0" * 64)], "no image size"),
        ([ImageEntry("a", 1, 1, "0" * 63)], "64 lower-case hex digits"),
        ([ImageEntry("a", 1, 1, "G" * 64)], "64 lower-case hex digits"),
    ],
)
def test_bad_lists_are_refused_before_anything_is_written(
    drawn: ModuleType, tmp_path: Path, entries: list[ImageEntry], message: str
) -> None:
    with pytest.raises(CacheError, match=message):
        open_writer(drawn, tmp_path / "c", entries)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ["a"]}, "settings.class_names"),
        ({}, "settings.class_names"),
        ({"class_names": ["a"] * 21, "floor": float("nan")}, "plain JSON"),
        ({"class_names": ["a"] * 21, "path": Path()}, "plain JSON"),
        ({"class_names": ["a"] * 21, "path": "caf\udce9"}, "plain JSON"),
    ],
)
def test_bad_settings_are_refused(
    drawn: ModuleType, tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises(CacheError, match=message):
        open_writer(drawn, tmp_path / "c", drawn.draw_entries(2), settings=settings)


def _changed(output: TutorOutput, **values) -> TutorOutput:
    return dataclasses.replace(output, **values)


def _with_box(output: TutorOutput, *box: float) -> TutorOutput:
    return _changed(output, boxes=np.array([box, *output.boxes[1:]], dtype=np.float32))


SPOILERS = {
    "boxes of shape": lambda o: _changed(o, boxes=o.boxes[:, :3]),
    "type float32, got .* float64": lambda o: _changed(o, boxes=o.boxes.astype(np.float64)),
    "finite boxes": lambda o: _with_box(o, np.nan, 0, 1, 1),
    "positive area": lambda o: _with_box(o, 2, 2, 2, 3),
    "boxes inside 8 x 6 pixels": lambda o: _with_box(o, 0, 0, 8.001, 6),
    "boxes inside": lambda o: _with_box(o, -0.001, 0, 8, 6),
    "labels 1 to 20, got": lambda o: _changed(o, labels=o.labels * 0),
    "labels 1 to 20": lambda o: _changed(o, labels=o.labels * 0 + 21),
    "labels of shape": lambda o: _changed(o, labels=o.labels[:-1]),
    "confidences within": lambda o: _changed(o, scores=o.scores * np.float32(np.nan)),
    "within 0..1": lambda o: _changed(o, scores=o.scores * 0 + np.float32(1.1)),
    "indices below 3": lambda o: _changed(o, index_map=o.index_map + np.uint8(3)),
    "label map of shape": lambda o: _changed(o, index_map=o.index_map.T),
    "uint8 or uint16": lambda o: _changed(o, index_map=o.index_map.astype(np.int64)),
    "row 0 of the palette": lambda o: _changed(o, palette=o.palette + np.float32(0.5)),
    "finite palette": lambda o: _changed(o, palette=o.palette + np.float32([[0], [np.inf], [0]])),
    "palette of shape": lambda o: _changed(o, palette=o.palette[:, :20]),
    "1 to 65536 label vectors": lambda o: _changed(o, palette=o.palette[:0]),
    "no instance masks": lambda o: _changed(
        o,
        instances=InstanceMasks(o.boxes, o.labels, o.scores, np.zeros((3, 28, 28), np.uint8)),
    ),
}


@pytest.mark.parametrize("message", SPOILERS)
def test_outputs_that_break_a_rule_are_refused_naming_the_image(
    drawn: ModuleType, tmp_path: Path, message: str
) -> None:
    entry = ImageEntry("spoilt", 6, 8, "0" * 64)
    output = drawn.draw_output(entry, vectors=3, boxes=3)
    with open_writer(drawn, tmp_path / "c", [entry]) as writer:
        shard = writer.pending()[0]
        with pytest.raises(CacheError, match=message) as caught:
            writer.write(shard, [SPOILERS[message](output)])
        assert str(caught.value).startswith("spoilt: ")
        assert writer.pending() == (shard,)
        writer.write(shard, [output])


def test_instance_masks_are_checked_too(drawn: ModuleType, tmp_path: Path) -> None:
    entry = ImageEntry("kept", 6, 8, "0" * 64)
    output = drawn.draw_output(entry, masks=3)
    settings = drawn.SETTINGS | {"keep_masks": True}
    with open_writer(drawn, tmp_path / "c", [entry], settings=settings) as writer:
        shard = writer.pending()[0]
        with pytest.raises(CacheError, match="expected the instance masks"):
            writer.write(shard, [_changed(output, instances=None)])
        kept = output.instances
        for bad in (
            dataclasses.replace(kept, masks=kept.masks[:, :14]),
            dataclasses.replace(kept, labels=kept.labels * 0),
            dataclasses.replace(kept, boxes=kept.boxes - 100),
        ):
            with pytest.raises(CacheError, match="kept: "):
                writer.write(shard, [_changed(output, instances=bad)])


def test_a_reason_that_is_no_unicode_is_recorded_all_the_same(
    drawn: ModuleType, tmp_path: Path
) -> None:
    entries = drawn.draw_entries(1)
    lost = FailedImage(entries[0].image_id, "no file caf\udce9.jpg")
    drawn.write_cache(tmp_path / "c", [lost], entries)
    assert TutorCache.open(tmp_path / "c").failed == {entries[0].image_id: "no file caf?.jpg"}


def test_one_enormous_image_does_not_swell_the_indexes() -> None:
    for pixels, chunk in ((1, 1), (250_000, 250_000), (2**18 + 1, 2**18), (2**26, 2**18)):
        spec = label_spec("label_map", 100, pixels, 64)
        assert spec.chunk == (1, chunk)
    enormous = label_spec("label_map", 100, 20_000 * 20_000, 64)
    assert enormous.chunks_per_shard == 64 * 256
    assert enormous.shape[1] >= 20_000 * 20_000


def test_settings_are_kept_as_json_returns_them(drawn: ModuleType, tmp_path: Path) -> None:
    entries = drawn.draw_entries(1)
    settings = drawn.SETTINGS | {"class_names": tuple(drawn.CLASS_NAMES), "scales": (1, 2)}
    for _ in range(2):
        open_writer(drawn, tmp_path / "c", entries, settings=settings).close()
    attributes = json.loads((tmp_path / "c" / "zarr.json").read_text())["attributes"]
    assert attributes["tutor_cache"]["settings"]["scales"] == [1, 2]
    assert attributes["tutor_cache"]["complete"] is False
    shutil.rmtree(tmp_path / "c")
