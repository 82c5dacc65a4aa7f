from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kdcli.cache.reader import TutorCache
from kdcli.common.errors import CacheError, TutorError
from kdcli.tutor_gen.gallery import write_cache_gallery
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.quality.evaluate import evaluate_tutors
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.classes import CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.images import write_mask
from kdcli.voc.scenes.dataset import Scene

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><truncated>0</truncated>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""
XML = """<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>
{objects}</annotation>"""


class Oracle:
    """A tutor that knows the ground truth, each object with one confidence."""

    def __init__(self, known: Mapping[bytes, Scene], confidence: float = 1.0) -> None:
        self.known = known
        self.confidence = confidence

    @property
    def description(self) -> Mapping[str, Any]:
        return {"kind": "oracle", "confidence": self.confidence}

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        return [self._answer(self.known[image.tobytes()]) for image in images]

    def _answer(self, scene: Scene) -> Instances:
        labels = scene.annotation.labels.astype(np.uint8)
        return Instances(
            boxes=scene.annotation.boxes,
            labels=labels,
            scores=np.full(len(labels), self.confidence, dtype=np.float32),
            masks=np.stack([scene.visible == n + 1 for n in range(len(labels))]),
        )


@pytest.fixture
def ids(devkit: Devkit, scenes: list[Scene]) -> tuple[str, ...]:
    """The devkit's ids, after its ground truth was written: boxes of all, masks of all but one."""
    ids = devkit.image_ids("Main/train")
    for folder in ("Annotations", "SegmentationClass"):
        (devkit.root / folder).mkdir()
    for image_id, scene in zip(ids, scenes, strict=False):
        truth = scene.annotation
        objects = "".join(
            OBJECT.format(
                *(box + np.array([1, 1, 0, 0])).astype(int),
                name=CLASSES[label],
                difficult=int(difficult),
            )
            for box, label, difficult in zip(
                truth.boxes, truth.labels, truth.difficult, strict=True
            )
        )
        xml = XML.format(width=truth.width, height=truth.height, objects=objects)
        (devkit.root / "Annotations" / f"{image_id}.xml").write_text(xml)
        if image_id != ids[-1]:
            write_mask(devkit.root / "SegmentationClass" / f"{image_id}.png", scene.class_mask)
    return ids


@pytest.fixture
def known(devkit: Devkit, ids: tuple[str, ...], scenes: list[Scene]) -> dict[bytes, Scene]:
    return {
        devkit.read_image(image_id).tobytes(): scene
        for image_id, scene in zip(ids, scenes, strict=False)
    }


def test_the_truth_scores_one(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    oracle = Oracle(known)
    generate(devkit, ids, TutorPair(oracle, oracle), tmp_path / "c.zarr")
    cache = TutorCache.open(tmp_path / "c.zarr")
    result = evaluate_tutors(cache, devkit, ids)
    assert result.detection is not None
    assert result.segmentation is not None
    assert result.detection.map == 1
    assert result.detection.images == 7
    assert sum(result.detection.objects.values()) > 7
    assert result.segmentation.miou == 1
    assert result.segmentation.pixel_accuracy == 1


def test_a_role_that_did_not_speak_has_no_score(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    generate(devkit, ids, TutorPair(None, Oracle(known)), tmp_path / "s.zarr")
    result = evaluate_tutors(TutorCache.open(tmp_path / "s.zarr"), devkit, ids)
    assert result.detection is None
    assert result.segmentation is not None
    generate(devkit, ids, TutorPair(Oracle(known), None), tmp_path / "d.zarr")
    cache = TutorCache.open(tmp_path / "d.zarr")
    assert evaluate_tutors(cache, devkit, ids).segmentation is None
    for file in (devkit.root / "Annotations").iterdir():
        file.unlink()
    assert evaluate_tutors(cache, devkit, ids).detection is None


def test_both_roles_rest_on_the_same_frequent_classes(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    """The objects of the list decide, whether or not the store holds boxes."""
    path = devkit.root / "Annotations" / f"{ids[0]}.xml"
    xml = path.read_text()
    first = xml[xml.index("<object>") : xml.index("</object>") + len("</object>")]
    path.write_text(xml.replace("</annotation>", 20 * first + "</annotation>"))
    annotation = devkit.annotation(ids[0])
    assert annotation is not None
    name = CLASSES[annotation.labels[0]]
    generate(devkit, ids, TutorPair(Oracle(known), Oracle(known)), tmp_path / "both.zarr")
    generate(devkit, ids, TutorPair(None, Oracle(known)), tmp_path / "masks.zarr")
    both = evaluate_tutors(TutorCache.open(tmp_path / "both.zarr"), devkit, ids)
    masks = evaluate_tutors(TutorCache.open(tmp_path / "masks.zarr"), devkit, ids)
    assert both.detection is not None
    assert both.detection.frequent_classes == (name,)
    assert masks.segmentation is not None
    assert masks.segmentation.frequent_classes == ("background", name)
    assert masks.segmentation.miou_frequent == 1


def test_the_threshold_makes_pixels_background(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    generate(devkit, ids, TutorPair(None, Oracle(known, 0.4)), tmp_path / "c.zarr")
    cache = TutorCache.open(tmp_path / "c.zarr")
    below = evaluate_tutors(cache, devkit, ids, vector_thresholds=(None, 0.4, 0.41))
    above = evaluate_tutors(cache, devkit, ids, segmentation_threshold=0.5).segmentation
    assert below.segmentation is not None
    assert above is not None
    assert below.segmentation.miou == 1
    assert [s.threshold for s in below.vector_thresholds] == [None, 0.4, 0.41]
    assert [s.miou == 1 for s in below.vector_thresholds] == [True, True, False]
    assert [s.covered > 0 for s in below.vector_thresholds] == [True, True, False]
    present = [name for name, count in above.pixels.items() if count and name != "background"]
    assert all(above.iou[name] == 0 for name in present)


def test_a_failed_image_counts_as_one_where_nothing_was_found(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    path = devkit.image_path(ids[0])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    oracle = Oracle(known)
    generate(devkit, ids, TutorPair(oracle, oracle), tmp_path / "c.zarr")
    path.write_bytes(content)
    result = evaluate_tutors(TutorCache.open(tmp_path / "c.zarr"), devkit, ids)
    assert result.detection is not None
    assert result.segmentation is not None
    missed = known[devkit.read_image(ids[0]).tobytes()].annotation
    name = CLASSES[missed.labels[~missed.difficult][0]]
    assert result.detection.average_precision[name] < 1
    assert result.segmentation.iou[name] < 1


def test_images_that_are_not_in_the_cache_are_named(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    generate(devkit, ids[:3], TutorPair(Oracle(known), None), tmp_path / "c.zarr")
    cache = TutorCache.open(tmp_path / "c.zarr")
    with pytest.raises(TutorError, match=rf"(?s)7 images .* lacks 4, the first is {ids[3]}"):
        evaluate_tutors(cache, devkit, ids)


def test_a_store_of_other_photographs_is_refused(
    tmp_path: Path, devkit: Devkit, ids: tuple[str, ...], known: dict[bytes, Scene]
) -> None:
    """Another size, or another picture of the same size: boxes would be scored in wrong places."""
    generate(devkit, ids, TutorPair(Oracle(known), None), tmp_path / "c.zarr")
    cache = TutorCache.open(tmp_path / "c.zarr")
    path = devkit.image_path(ids[0])
    Image.fromarray(devkit.read_image(ids[0])[::-1]).save(path)
    for act in (
        lambda: evaluate_tutors(cache, devkit, ids),
        lambda: write_cache_gallery(tmp_path / "g.html", cache, devkit, len(ids)),
    ):
        with pytest.raises(CacheError, match=rf"{ids[0]}: the image file changed"):
            act()
