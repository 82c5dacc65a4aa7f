"""Generation killed at any moment: nothing half-written is read, nothing finished is repeated."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from kdcli.cache.format.record import FailedImage, TutorOutput
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.cache.writer import CacheWriter
from kdcli.common.errors import CacheError, ResourceError
from kdcli.common.images import ImageEntry

CHANGES = frozenset(
    {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}
)


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def in_child(work: Callable[[], object]) -> int:
    """The exit code of ``work`` done in a forked process: 0, 1 after an exception, or its own."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watch_changes(folder: Path, seen: Callable[[], object]) -> None:
    """Call ``seen`` before every change below ``folder`` from now on, from any thread."""

    def watch(event: str, arguments: tuple) -> None:
        if event in CHANGES and str(folder) in str(arguments[0]):
            seen()

    sys.addaudithook(watch)


def die_before(change: int, folder: Path, work: Callable[[], object]) -> None:
    """Do ``work`` in a process that dies before its n-th change below ``folder``."""
    left = itertools.count(change, -1)

    def attempt() -> None:
        watch_changes(folder, lambda: next(left) or os._exit(9))
        work()

    assert in_child(attempt) == 9


def count_changes(folder: Path, work: Callable[[], object]) -> int:
    """How many changes ``work`` makes below ``folder``; their traces are removed."""
    result = folder.with_name("changes")
    done = itertools.count()

    def attempt() -> None:
        watch_changes(folder, lambda: next(done))
        work()
        result.write_text(str(next(done)))

    assert in_child(attempt) == 0
    shutil.rmtree(folder)
    return int(result.read_text())


def generate(
    drawn: ModuleType,
    path: Path,
    entries: list[ImageEntry],
    outputs: dict[str, TutorOutput | FailedImage],
    logger: Path | None = None,
) -> list[int]:
    """A whole run; the shards it wrote, also noted in ``logger`` as they return."""
    written = []
    with CacheWriter.open(
        path, entries, drawn.SETTINGS, drawn.ENVIRONMENT, images_per_shard=4
    ) as writer:
        for shard in writer.pending():
            writer.write(shard, [outputs[e.image_id] for e in shard.images])
            written.append(shard.index)
            if logger is not None:
                with logger.open("a") as handle:
                    handle.write(f"{shard.index}\n")
        writer.finish()
    return written


def read_or_refused(path: Path, outputs: dict[str, TutorOutput]) -> bool:
    """Whether the cache can be read; if so it must be right, if not it must say why."""
    try:
        cache = TutorCache.open(path)
    except CacheError as error:
        refusal = str(error)
    else:
        assert all(cache[image_id].equals(output) for image_id, output in outputs.items())
        return True
    assert re.search(r"incomplete|no such folder|no zarr\.json", refusal)
    return False


def test_killed_before_any_change_of_a_run(drawn: ModuleType, quick_folder: Path) -> None:
    entries = drawn.draw_entries(10)
    outputs = {e.image_id: drawn.draw_output(e) for e in entries}
    folder = quick_folder / "killed"
    path, logger = folder / "cache.zarr", quick_folder / "journal"
    generate(drawn, quick_folder / "whole", entries, outputs)
    whole = files_of(quick_folder / "whole")
    folder.mkdir()
    changes = count_changes(path, lambda: generate(drawn, path, entries, outputs))
    assert changes > 100
    moments = random.Random(1).sample(range(changes), 40)
    for moment in [0, 1, 2, 3, 4, *moments, changes - 2, changes - 1]:
        shutil.rmtree(folder, ignore_errors=True)
        logger.unlink(missing_ok=True)
        folder.mkdir()
        die_before(moment, path, lambda: generate(drawn, path, entries, outputs, logger))
        finished = logger.read_text().split() if logger.exists() else []
        complete = read_or_refused(path, outputs)
        repeated = generate(drawn, path, entries, outputs)
        assert not set(map(int, finished)) & set(repeated)
        assert len(finished) + len(repeated) >= 2 or complete  # at most one shard's work is lost
        assert files_of(path) == whole


def test_killed_before_any_change_of_a_retry(drawn: ModuleType, quick_folder: Path) -> None:
    entries = drawn.draw_entries(10)
    outputs = {e.image_id: drawn.draw_output(e) for e in entries}
    failing = outputs | {i: FailedImage(i, "broken") for i in ("drawn_002", "drawn_009")}
    begun, path = quick_folder / "begun", quick_folder / "retried"
    generate(drawn, begun, entries, failing)
    generate(drawn, quick_folder / "whole_retry", entries, outputs)
    whole = files_of(quick_folder / "whole_retry")
    shutil.copytree(begun, path)
    changes = count_changes(path, lambda: generate(drawn, path, entries, outputs))
    for moment in random.Random(2).sample(range(changes), 20):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(begun, path)
        die_before(moment, path, lambda: generate(drawn, path, entries, outputs))
        read_or_refused(path, {})
        written = generate(drawn, path, entries, outputs)
        assert 1 not in written  # shard 1 had no failed image
        assert files_of(path) == whole


@pytest.mark.parametrize("lost", ["image_ids", "image_size", "image_sha256", "label_map"])
def test_killed_between_an_array_and_its_metadata(
    drawn: ModuleType, quick_folder: Path, lost: str
) -> None:
    entries = drawn.draw_entries(10)
    outputs = {e.image_id: drawn.draw_output(e) for e in entries}
    generate(drawn, quick_folder / "whole_frame", entries, outputs)
    path = quick_folder / "begun_frame"
    with CacheWriter.open(path, entries, drawn.SETTINGS, drawn.ENVIRONMENT, images_per_shard=4):
        pass
    (path / lost / "zarr.json").unlink()
    generate(drawn, path, entries, outputs)
    assert files_of(path) == files_of(quick_folder / "whole_frame")


def _start(folder: Path, images: int) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, here / "drawn.py", folder, str(images), "3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(here.parents[1])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_generation_killed_by_the_system_resumes(drawn: ModuleType, tmp_path: Path) -> None:
    outputs = {o.image_id: o for o in drawn.write_drawn(tmp_path / "whole", 60, 3)}
    whole = files_of(tmp_path / "whole")
    begun = time.perf_counter()
    assert _start(tmp_path / "timed", 60).wait(60) == 0
    duration = time.perf_counter() - begun
    rng = random.Random(4)
    for attempt in range(5):
        path = tmp_path / f"killed{attempt}"
        process = _start(path, 60)
        time.sleep(rng.uniform(0, duration / 2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        read_or_refused(path, outputs)
        drawn.write_drawn(path, 60, 3)
        assert files_of(path) == whole


def test_ctrl_c_ends_at_once_and_leaves_a_cache_to_resume(
    drawn: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "cache.zarr"
    # Seconds of work: it must not be over before the signal comes, however slow the disk is.
    process = _start(path, 6000)
    while not list(path.glob(".parts/*.part")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert process.returncode != 0, errors
    assert "KeyboardInterrupt" in errors
    assert list(path.rglob("*.tmp")) == []
    assert not (path / ".lock").exists()
    assert verify(path) == [
        f"{path}: the cache is incomplete. Run the same generate-tutors command again, it goes on "
        "where it stopped."
    ]
    entries = drawn.draw_entries(6000, 3)
    with CacheWriter.open(path, entries, drawn.SETTINGS, drawn.ENVIRONMENT) as writer:
        assert 0 < len(writer.pending()) < 1500


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_later(
    drawn: ModuleType, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    try:
        entries = drawn.draw_entries(40)
        outputs = {e.image_id: drawn.draw_output(e, vectors=200) for e in entries}
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(300_000))
        with pytest.raises(ResourceError, match=r"the disk is full \(0\.\d MiB free\)") as caught:
            generate(drawn, disk / "cache.zarr", entries, outputs)
        assert "run the same command again" in str(caught.value)
        assert list(disk.rglob("*.tmp")) == []
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        written = generate(drawn, disk / "cache.zarr", entries, outputs)
        assert 0 < len(written) < 10
        assert read_or_refused(disk / "cache.zarr", outputs)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
