from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdcli.cache.reader import TutorCache
from kdcli.cache.summary import summarise
from kdcli.common.errors import CacheError, ConfigError, DevkitError, TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.labels.hard import code_label_vectors
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.tutor import Instances, Tutor
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit

IN_TWOS = generation_config(detection__score_threshold=0.05, runtime__images_per_shard=2)
IN_THREES = generation_config(detection__score_threshold=0.05, runtime__images_per_shard=3)


class Spoilt:
    """A real tutor that is interrupted, or whose boxes are spoilt, at its n-th image."""

    def __init__(self, tutor: Tutor, at: int, how: type[BaseException] | None = None) -> None:
        self.tutor, self.at, self.how = tutor, at, how
        self.calls = 0

    @property
    def description(self) -> Mapping[str, Any]:
        return self.tutor.description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        self.calls += len(images)
        found = self.tutor.predict(images)
        if self.calls == self.at:
            if self.how is not None:
                raise self.how
            found[0].boxes[0, 0] = np.nan
        return found


NEVER = -1


@pytest.fixture
def ids(devkit: Devkit) -> tuple[str, ...]:
    return devkit.image_ids("Main/train")


def same(first: Path, second: Path, ids: Iterable[str]) -> None:
    one, two = TutorCache.open(first), TutorCache.open(second)
    assert one.fingerprint == two.fingerprint
    for image_id in ids:
        assert one[image_id].equals(two[image_id])


def test_the_cache_holds_what_the_tutors_said(
    tmp_path: Path,
    devkit: Devkit,
    ids: tuple[str, ...],
    detection_tutor: Tutor,
    segmentation_tutor: Tutor,
) -> None:
    out = tmp_path / "c.zarr"
    result = generate(
        devkit,
        ids,
        TutorPair(
            detection_tutor,
            segmentation_tutor,
            generation_config(
                detection__score_threshold=0.01,
                segmentation__score_threshold=0.2,
                runtime__images_per_shard=3,
            ),
        ),
        out,
    )
    assert (result.images, result.skipped, result.failed) == (7, 0, {})
    cache = TutorCache.open(out)
    below = 0
    for image_id in ids:
        image = devkit.read_image(image_id)
        (found,) = detection_tutor.predict([image])
        kept = found.scores >= np.float32(0.01)
        below += int((~kept).sum())
        np.testing.assert_array_equal(cache[image_id].boxes, found.boxes[kept])
        np.testing.assert_array_equal(cache[image_id].labels, found.labels[kept])
        np.testing.assert_array_equal(cache[image_id].scores, found.scores[kept])
        (found,) = segmentation_tutor.predict([image])
        assert found.masks is not None
        kept = found.scores >= np.float32(0.2)
        index_map, palette = code_label_vectors(
            found.masks[kept], found.labels[kept], found.scores[kept], *image.shape[:2]
        )
        np.testing.assert_array_equal(cache[image_id].label_vectors(), palette[index_map])
    assert below > 0
    assert result.dropped["detection"] == {"floor": below}
    assert summarise(cache).dropped == result.dropped


def test_the_provenance_says_what_decided_the_content(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], detection_tutor: Tutor
) -> None:
    out = tmp_path / "c.zarr"
    generate(
        devkit,
        ids[:2],
        TutorPair(detection_tutor, None, generation_config(detection__score_threshold=0.02)),
        out,
    )
    cache = TutorCache.open(out)
    settings = cache.provenance["settings"]
    assert cache.roles == {"detection"}
    assert settings["class_names"] == list(CLASSES)
    assert settings["detection"] == detection_tutor.description
    assert settings["segmentation"] is None
    assert settings["detection_floor"] == 0.02
    assert not cache[ids[0]].index_map.any()
    with pytest.raises(CacheError, match="detection_floor"):
        generate(
            devkit,
            ids[:2],
            TutorPair(detection_tutor, None, generation_config(detection__score_threshold=0.03)),
            out,
        )


def test_segmentation_alone_has_no_boxes(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], segmentation_tutor: Tutor
) -> None:
    generate(devkit, ids[:2], TutorPair(None, segmentation_tutor), tmp_path / "c.zarr")
    cache = TutorCache.open(tmp_path / "c.zarr")
    assert cache.roles == {"segmentation"}
    assert len(cache[ids[0]].boxes) == 0
    assert cache[ids[0]].index_map.any()


def test_one_model_in_both_roles_runs_once(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], segmentation_tutor: Tutor
) -> None:
    both = Spoilt(segmentation_tutor, NEVER)
    generate(devkit, ids, TutorPair(both, both), tmp_path / "c.zarr")
    assert both.calls == len(ids)
    cache = TutorCache.open(tmp_path / "c.zarr")
    assert cache.roles == {"detection", "segmentation"}
    (found,) = segmentation_tutor.predict([devkit.read_image(ids[0])])
    np.testing.assert_array_equal(cache[ids[0]].boxes, found.boxes)


@pytest.mark.parametrize("how", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_run_goes_on_where_it_was(
    tmp_path: Path,
    devkit: Devkit,
    ids: tuple[str, ...],
    detection_tutor: Tutor,
    how: type[BaseException],
) -> None:
    whole, out = tmp_path / "whole.zarr", tmp_path / "c.zarr"
    first = generate(devkit, ids, TutorPair(detection_tutor, None, IN_TWOS), whole)
    assert sum(first.dropped["detection"].values()) > 0
    with pytest.raises(how):
        generate(
            devkit,
            ids,
            TutorPair(Spoilt(detection_tutor, 6, how), None, IN_TWOS),
            out,
        )
    with pytest.raises(CacheError):
        TutorCache.open(out)
    again = Spoilt(detection_tutor, NEVER)
    result = generate(devkit, ids, TutorPair(again, None, IN_TWOS), out)
    assert again.calls == 3  # two shards of two were done; image 5 is repeated, 6 and 7 follow
    assert (result.images, result.skipped) == (3, 4)
    same(whole, out, ids)
    assert summarise(TutorCache.open(out)).dropped == first.dropped
    assert generate(devkit, ids, TutorPair(again, None, IN_TWOS), out).images == 0


def test_a_broken_photograph_is_recorded_and_retried(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], detection_tutor: Tutor
) -> None:
    whole, out = tmp_path / "whole.zarr", tmp_path / "c.zarr"
    first = generate(devkit, ids, TutorPair(detection_tutor, None, IN_THREES), whole)
    assert sum(first.dropped["detection"].values()) > 0
    path = devkit.image_path(ids[4])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    result = generate(devkit, ids, TutorPair(detection_tutor, None, IN_THREES), out)
    assert result.images == 6
    assert list(result.failed) == [ids[4]]
    assert str(path) in result.failed[ids[4]]
    cache = TutorCache.open(out)
    assert list(cache.failed) == [ids[4]]
    assert len(cache) == 6
    path.write_bytes(content)
    result = generate(devkit, ids, TutorPair(detection_tutor, None, IN_THREES), out)
    assert (result.images, result.skipped, result.failed) == (1, 6, {})
    same(whole, out, ids)
    assert summarise(TutorCache.open(out)).dropped == first.dropped


def test_an_empty_photograph_fails_alone(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], detection_tutor: Tutor
) -> None:
    devkit.image_path(ids[0]).write_bytes(b"")
    result = generate(devkit, ids, TutorPair(detection_tutor, None), tmp_path / "c.zarr")
    assert (result.images, list(result.failed)) == (6, [ids[0]])
    assert TutorCache.open(tmp_path / "c.zarr").image_ids == ids[1:]


def test_impossible_output_stops_the_run_and_names_the_image(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], detection_tutor: Tutor
) -> None:
    with pytest.raises(TutorError, match=f"image {ids[2]}: .*NaN"):
        generate(devkit, ids, TutorPair(Spoilt(detection_tutor, 3), None), tmp_path / "c.zarr")


def test_mistakes_before_the_first_image(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], detection_tutor: Tutor
) -> None:
    out = tmp_path / "c.zarr"
    with pytest.raises(TutorError, match="both tutors are 'none'"):
        generate(devkit, ids, TutorPair(None, None), out)
    with pytest.raises(ConfigError, match=r"score_threshold to be from 0 to below 1, got 1\.5"):
        generate(
            devkit,
            ids,
            TutorPair(detection_tutor, None, generation_config(detection__score_threshold=1.5)),
            out,
        )
    with pytest.raises(DevkitError, match="does not exist"):
        generate(devkit, ["nowhere"], TutorPair(detection_tutor, None), out)
    assert not out.exists()


def test_the_loop_is_tracked(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], detection_tutor: Tutor
) -> None:
    seen: list[Any] = []

    def progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
        seen.append((total, label))
        for item in items:
            yield item
            seen.append(item.image_id)
        seen.append("end")

    generate(devkit, ids, TutorPair(detection_tutor, None), tmp_path / "c.zarr", progress=progress)
    assert seen == [(7, "tutors"), *ids, "end"]


def test_cache_of_a_loaded_pair(tmp_path: Path, devkit: Devkit, ids: tuple[str, ...]) -> None:
    weights = SAMPLE / "segmentation.pth"
    tutor = load_tutor(str(SAMPLE / "segmentation.yaml"), "detection", weights=weights)
    generate(devkit, ids[:1], TutorPair(tutor, None), tmp_path / "c.zarr")
    assert len(TutorCache.open(tmp_path / "c.zarr").boxes(ids[0]).boxes) > 0
