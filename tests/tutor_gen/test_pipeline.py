"""Reading ahead, batches, and the thread that codes and writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import get_worker_info

from kdcli.cache.reader import TutorCache
from kdcli.cache.writing.shard import Shard
from kdcli.common.errors import CacheError, DevkitError
from kdcli.common.images import ImageEntry
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.generate import divide, generate
from kdcli.tutor_gen.pipeline.background import Background
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.pipeline.read_ahead import Photographs, Read, plan_batches, read_ahead
from kdcli.tutor_gen.tutors.preparation import Preparation
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images

SIZES = st.lists(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=12),
    max_size=5,
)
WAYS = (Preparation(32, 64, multiple=8), Preparation(48, 0))


def shards_of(sizes: list[list[tuple[int, int]]]) -> list[Shard]:
    return [
        Shard(
            index, tuple(ImageEntry(f"{index}_{i}", *size, "0" * 64) for i, size in enumerate(each))
        )
        for index, each in enumerate(sizes)
    ]


@given(SIZES, st.integers(1, 5))
def test_a_plan_takes_every_image_once_shard_by_shard(
    sizes: list[list[tuple[int, int]]], batch_size: int
) -> None:
    shards = shards_of(sizes)
    plan = plan_batches(shards, WAYS, batch_size)
    places = [place for batch in plan for place in batch]
    assert sorted(places) == [(s, i) for s, each in enumerate(sizes) for i in range(len(each))]
    assert [s for s, _ in places] == sorted(s for s, _ in places)
    for batch in plan:
        assert 1 <= len(batch) <= batch_size
        for way in WAYS:
            assert len({way.padded_shape(*sizes[s][i]) for s, i in batch}) == 1
    if batch_size == 1:
        assert places == sorted(places)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 5))
def test_shards_are_divided_evenly_and_only_the_first_process_mends(
    new: list[bool], processes: int
) -> None:
    pending = [Shard(index, ()) for index in range(len(new))]
    shares = divide(pending, lambda shard: new[shard.index], processes)
    assert len(shares) == processes
    indices = [[shard.index for shard in share] for share in shares]
    assert sorted(i for share in indices for i in share) == list(range(len(new)))
    assert all(share == sorted(share) for share in indices)
    assert all(new[i] for share in indices[1:] for i in share)
    counts = [sum(new[i] for i in share) for share in indices]
    assert max(counts) - min(counts) <= 1


class Watched(Photographs):
    """Notes which worker read each photograph, in place of its reason of failure."""

    def __getitem__(self, place: tuple[int, int]) -> Read:
        read = super().__getitem__(place)
        worker = get_worker_info()
        who = str(worker.id if worker else "main")
        return Read(place, read.entry, read.views, read.changed, who)


@pytest.fixture
def shards(devkit: Devkit) -> list[Shard]:
    entries = scan_images(devkit, devkit.image_ids("Main/train"))
    return [Shard(0, entries[:4]), Shard(1, entries[4:])]


@pytest.mark.parametrize(("workers", "readers"), [(0, {"main"}), (2, {"0", "1"})])
def test_workers_read_in_the_order_of_the_plan(
    devkit: Devkit, shards: list[Shard], workers: int, readers: set[str]
) -> None:
    plan = plan_batches(shards, WAYS, 2)
    photographs = Watched(devkit, shards, WAYS)
    seen = set()
    for batch, expected in zip(
        read_ahead(photographs, plan, workers=workers, pin_memory=False), plan, strict=True
    ):
        assert [read.place for read in batch] == expected
        for read in batch:
            seen.add(read.failure)
            image = devkit.read_image(read.entry.image_id)
            for way in WAYS:
                np.testing.assert_array_equal(read.views[way].pixels, way(image).pixels)
    assert seen == readers


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("same_size", [True, False])
def test_another_photograph_than_the_listed_one_stops_the_run(
    devkit: Devkit, shards: list[Shard], workers: int, same_size: bool
) -> None:
    name = shards[0].images[0].image_id
    image = devkit.read_image(name)
    Image.fromarray(image if same_size else image[1:]).save(devkit.image_path(name), quality=50)
    photographs, plan = Photographs(devkit, shards, WAYS), plan_batches(shards, WAYS, 1)
    with pytest.raises(DevkitError, match=rf"{name}\.jpg is not the photograph that was listed"):
        list(read_ahead(photographs, plan, workers=workers, pin_memory=False))


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_workers_change_nothing_and_batches_the_last_bits(
    tmp_path: Path, devkit: Devkit, detection_tutor: Tutor, segmentation_tutor: Tutor
) -> None:
    ids = devkit.image_ids("Main/train")
    content = devkit.image_path(ids[2]).read_bytes()
    devkit.image_path(ids[2]).write_bytes(content[:900])  # one that fails amid a batch
    for name, runtime in {
        "plain": {"workers": 0},
        "workers": {"workers": 2},
        "batches": {"workers": 1, "batch_size": 4},
    }.items():
        result = generate(
            devkit,
            ids,
            TutorPair(
                detection_tutor,
                segmentation_tutor,
                generation_config(runtime={"images_per_shard": 5, **runtime}),
            ),
            tmp_path / name,
        )
        assert (result.images, list(result.failed)) == (6, [ids[2]])
    assert files_of(tmp_path / "plain") == files_of(tmp_path / "workers")
    plain, batches = (TutorCache.open(tmp_path / name) for name in ("plain", "batches"))
    assert "batch_size" not in plain.provenance["environments"][0]
    assert batches.provenance["environments"][0]["batch_size"] == "4"
    assert plain.fingerprint == batches.fingerprint
    for image_id in plain.image_ids:
        sure = plain[image_id].scores > 0.3
        assert sure.any()
        one, two = plain[image_id], batches[image_id]
        np.testing.assert_allclose(one.boxes[sure], two.boxes[: len(sure)][sure], atol=1e-2)
        np.testing.assert_allclose(one.scores[sure], two.scores[: len(sure)][sure], atol=1e-4)
        same = np.isclose(one.label_vectors(), two.label_vectors(), atol=1e-4).all(axis=2)
        assert same.mean() > 0.999


class TestBackground:
    def test_items_are_worked_off_in_order_in_another_thread(self) -> None:
        done: list[tuple[int, bool]] = []

        def work(item: int) -> None:
            done.append((item, threading.current_thread() is threading.main_thread()))

        with Background(work, 2) as background:
            for item in range(50):
                background.put(item)
        assert done == [(item, False) for item in range(50)]

    def test_no_more_items_wait_than_asked_for(self) -> None:
        gate, begun = threading.Event(), threading.Semaphore(0)

        def work(item: int) -> None:
            begun.release()
            gate.wait(10)

        with Background(work, 3) as background:
            background.put(0)
            assert begun.acquire(timeout=10)  # it is under way, so it does not wait
            for item in (1, 2, 3):
                background.put(item)
            full = threading.Thread(target=background.put, args=[4], daemon=True)
            full.start()
            full.join(0.1)
            assert full.is_alive()
            gate.set()
            full.join(10)
            assert not full.is_alive()

    def test_an_error_comes_out_and_ends_the_work(self) -> None:
        done: list[int] = []

        def work(item: int) -> None:
            if item == 3:
                raise CacheError("the disk is full")
            done.append(item)

        def put_all() -> Iterator[int]:
            with Background(work, 2) as background:
                for item in range(1000):
                    background.put(item)
                    yield item

        put = []
        with pytest.raises(CacheError, match="the disk is full"):
            put.extend(put_all())
        assert done == [0, 1, 2]

    def test_an_error_at_the_very_end_comes_out_too(self) -> None:
        def work(item: int) -> None:
            raise CacheError("the disk is full")

        with pytest.raises(CacheError, match="the disk is full"), Background(work, 2) as background:
            background.put(0)

    def test_what_waits_is_worked_off_when_the_block_fails(self) -> None:
        gate, done = threading.Event(), list[int]()

        def work(item: int) -> None:
            gate.wait(10)
            done.append(item)

        def fail() -> None:
            with Background(work, 5) as background:
                for item in range(4):
                    background.put(item)
                gate.set()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert done == [0, 1, 2, 3]
