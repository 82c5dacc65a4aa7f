"""A dry run says what the run will take, and leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcli.cache.format.record import TutorOutput
from kdcli.cache.writing.survey import expected_bytes, images_to_do
from kdcli.common.errors import CacheError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.estimate import estimate
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutors
from kdcli.tutor_gen.tutors.tutor import Instances, Tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scan import scan_images


class Stopping:
    """A tutor that is interrupted at its n-th image."""

    def __init__(self, tutor: Tutor, at: int) -> None:
        self.tutor, self.left = tutor, at

    @property
    def description(self) -> Mapping[str, Any]:
        return self.tutor.description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.tutor.predict(images)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("keep_masks", [False, True])
def test_the_size_is_about_that_of_the_real_run(
    tmp_path: Path, devkit: Devkit, keep_masks: bool
) -> None:
    tutors = load_tutors(
        generation_config(
            detection__tutor="sample",
            segmentation__tutor="sample",
            segmentation__keep_masks=keep_masks,
            runtime__images_per_shard=3,
        )
    )
    ids, out = devkit.image_ids("Main/train"), tmp_path / "c.zarr"
    found = estimate(devkit, ids, tutors, out)
    assert not out.exists()
    assert (found.images, found.skipped, found.sampled) == (7, 0, 4)
    assert found.seconds == pytest.approx(7 * found.seconds_per_image)
    result = generate(devkit, ids, tutors, out)
    assert found.bytes_total == pytest.approx(size_of(out), rel=0.35)  # 7 images are no average
    assert 0.2 < found.seconds / result.seconds < 5


def test_what_an_earlier_run_did_is_skipped(
    tmp_path: Path, devkit: Devkit, detection_tutor: Tutor
) -> None:
    ids, out = devkit.image_ids("Main/train"), tmp_path / "c.zarr"
    stopping = Stopping(detection_tutor, 6)
    with pytest.raises(KeyboardInterrupt):
        generate(
            devkit,
            ids,
            TutorPair(stopping, None, generation_config(runtime__images_per_shard=2)),
            out,
        )
    before = files_of(out)
    pair = TutorPair(detection_tutor, None)
    found = estimate(devkit, ids, pair, out)
    assert (found.images, found.skipped, found.sampled) == (3, 4, 3)
    assert files_of(out) == before
    with pytest.raises(CacheError, match="detection_floor"):
        estimate(
            devkit,
            ids,
            TutorPair(detection_tutor, None, generation_config(detection__score_threshold=0.5)),
            out,
        )
    with pytest.raises(CacheError, match="other images"):
        estimate(devkit, ids[:5], pair, out)
    generate(devkit, ids, TutorPair(detection_tutor, None), out)
    found = estimate(devkit, ids, pair, out)
    assert (found.images, found.skipped, found.sampled, found.seconds) == (0, 7, 0, 0)


def test_failed_images_are_still_to_do(
    tmp_path: Path, devkit: Devkit, detection_tutor: Tutor
) -> None:
    ids, out = devkit.image_ids("Main/train"), tmp_path / "c.zarr"
    devkit.image_path(ids[2]).write_bytes(b"")
    whole = devkit.image_path(ids[4]).read_bytes()
    devkit.image_path(ids[4]).write_bytes(whole[: len(whole) // 2])
    pair = TutorPair(detection_tutor, None)
    assert estimate(devkit, ids, pair, out).images == 7
    generate(
        devkit,
        ids,
        TutorPair(detection_tutor, None, generation_config(runtime__images_per_shard=3)),
        out,
    )
    entries = scan_images(devkit, ids)
    left = images_to_do(out, entries, pair.settings)
    assert [entry.image_id for entry in left] == [ids[2], ids[4]]
    found = estimate(devkit, ids, pair, out)
    assert (found.images, found.skipped, found.sampled) == (2, 5, 0)


def test_many_images_take_what_they_take_each(devkit: Devkit) -> None:
    """Of many images the frame of the store is no part worth naming."""
    (entry,) = scan_images(devkit, devkit.image_ids("Main/train")[:1])
    rng = np.random.default_rng(1)
    index_map = rng.integers(0, 2, (entry.height, entry.width)).astype(np.uint8)
    palette = np.zeros((2, 21), dtype=np.float32)
    empty = np.zeros((0, 4), dtype=np.float32)
    output = TutorOutput(
        entry.image_id, empty, np.zeros(0, np.uint8), empty[:, 0], index_map, palette
    )
    noise = entry.height * entry.width / 8  # a bit a pixel is all there is to say
    found = expected_bytes([output], [entry] * 5000, 64) / 5000
    assert noise < found < 1.5 * noise
