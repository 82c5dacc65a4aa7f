"""The network's own masks: the same as Detectron2 pastes, from one run of the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdcli.cache.format.record import MASK_ERROR_BOUND
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.detections import Detections
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.config import read_config
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.detectron2.load import from_config
from kdcli.tutor_gen.detectron2.model import load_model
from kdcli.tutor_gen.detectron2.tutor import Detectron2Tutor, paste_masks
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.quality.evaluate import evaluate_tutors
from kdcli.tutor_gen.registry import load_tutor, load_tutors
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Instances, Tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.instances import instance_truth
from kdcli.voc.metrics import compare, evaluate_instances
from kdcli.voc.scenes.dataset import Scene, make_sample

CONFIG, WEIGHTS = SAMPLE / "segmentation.yaml", SAMPLE / "segmentation.pth"
SETTINGS = ModelSettings(0.05, masks=True, keep_masks=True)


@pytest.fixture(scope="module")
def keeping() -> Detectron2Tutor:
    return from_config(CONFIG, WEIGHTS, SETTINGS)


def with_smaller_masks(folder: Path) -> Path:
    """The sample tutor's configuration, its masks 14 x 14."""
    text = CONFIG.read_text().replace("POOLER_RESOLUTION: 14", "POOLER_RESOLUTION: 7")
    path = folder / "small.yaml"
    path.write_text(text)
    (folder / "small.yaml.toml").write_bytes(Path(f"{CONFIG}.toml").read_bytes())
    return path


def test_they_are_the_ones_that_detectron2_pastes(
    keeping: Detectron2Tutor, segmentation_tutor: Tutor, scenes: list[Scene]
) -> None:
    images = [scene.image for scene in scenes]
    plain = segmentation_tutor.predict(images)
    for image, ours, default in zip(images, keeping.predict(images), plain, strict=True):
        assert default.mask_probabilities is None
        for name in ("boxes", "labels", "scores", "masks"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(default, name))
        assert ours.dropped == default.dropped
        own = ours.mask_probabilities
        assert own is not None
        assert own.shape == (len(ours), 28, 28)
        assert own.dtype == np.float32
        assert len(np.unique(own)) > 1000  # probabilities, not marks
        pasted = paste_masks(torch.from_numpy(own), ours.boxes, *image.shape[:2])
        np.testing.assert_array_equal(pasted, ours.masks)


def test_the_network_runs_once_an_image(keeping: Detectron2Tutor, scenes: list[Scene]) -> None:
    runs: list[Any] = []
    hook = keeping.model.backbone.register_forward_hook(lambda *given: runs.append(given))
    keeping.predict([scenes[0].image, scenes[1].image])
    hook.remove()
    assert len(runs) == 2


def test_an_image_without_instances_has_no_masks(scenes: list[Scene]) -> None:
    nothing = ModelSettings(0.9999, masks=True, keep_masks=True)
    (found,) = from_config(CONFIG, WEIGHTS, nothing).predict([scenes[0].image])
    assert len(found) == 0
    assert found.mask_probabilities is not None
    assert found.mask_probabilities.shape == (0, 28, 28)


def test_masks_of_another_side_are_refused(tmp_path: Path, scenes: list[Scene]) -> None:
    path = with_smaller_masks(tmp_path)
    with pytest.raises(TutorError, match=r"small\.yaml does not make \(its mask head gives 14 x 1"):
        from_config(path, "random:0", SETTINGS)
    config = read_config(path, SETTINGS)
    model, origin = load_model(config, "random:0")
    names = [f"{index}" for index in range(8)]
    tutor = Detectron2Tutor(config, model, names, {"name": "small", **origin}, keep_masks=True)
    with pytest.raises(TutorError, match=r"small does not make \(its mask head gives 14 x 14"):
        tutor.predict([scenes[0].image])


def test_the_cache_keeps_them(
    tmp_path: Path, devkit: Devkit, detection_tutor: Tutor, keeping: Detectron2Tutor
) -> None:
    ids, out = devkit.image_ids("Main/train")[:3], tmp_path / "c.zarr"
    generate(
        devkit,
        ids,
        TutorPair(
            detection_tutor,
            keeping,
            generation_config(segmentation__score_threshold=0.2, segmentation__keep_masks=True),
        ),
        out,
    )
    assert verify(out) == []
    cache = TutorCache.open(out)
    assert cache.settings["keep_masks"] is True
    assert cache.has_instances
    for image_id in ids:
        (found,) = keeping.predict([devkit.read_image(image_id)])
        found = found.select(found.scores >= np.float32(0.2), "floor")
        kept = cache.instances(image_id)
        assert kept is not None
        assert len(kept.boxes) > 0
        np.testing.assert_array_equal(kept.boxes, found.boxes)
        np.testing.assert_array_equal(kept.labels, found.labels)
        np.testing.assert_array_equal(kept.scores, found.scores)
        difference = np.abs(kept.probabilities() - found.mask_probabilities)
        assert difference.max() <= MASK_ERROR_BOUND + 1e-6


def test_a_cache_is_the_same_otherwise(
    tmp_path: Path, devkit: Devkit, segmentation_tutor: Tutor, keeping: Detectron2Tutor
) -> None:
    ids = devkit.image_ids("Main/train")[:2]
    generate(devkit, ids, TutorPair(None, segmentation_tutor), tmp_path / "plain.zarr")
    generate(
        devkit,
        ids,
        TutorPair(None, keeping, generation_config(segmentation__keep_masks=True)),
        tmp_path / "kept.zarr",
    )
    plain, kept = (TutorCache.open(tmp_path / f"{name}.zarr") for name in ("plain", "kept"))
    assert "keep_masks" not in plain.settings
    assert {**plain.settings, "keep_masks": True} == kept.settings
    for image_id in ids:
        np.testing.assert_array_equal(kept[image_id].index_map, plain[image_id].index_map)
        np.testing.assert_array_equal(kept[image_id].palette, plain[image_id].palette)


def test_one_model_in_both_roles_keeps_them(tmp_path: Path, devkit: Devkit) -> None:
    model = {"tutor": str(CONFIG), "weights": str(WEIGHTS), "score_threshold": 0.001}
    both = load_tutors(
        generation_config(detection=model, segmentation={**model, "keep_masks": True})
    )
    ids = devkit.image_ids("Main/train")[:1]
    generate(devkit, ids, both, tmp_path / "c.zarr")
    output = TutorCache.open(tmp_path / "c.zarr")[ids[0]]
    assert output.instances is not None
    np.testing.assert_array_equal(output.instances.boxes, output.boxes)


def test_tutors_that_cannot_give_them(
    tmp_path: Path, devkit: Devkit, detection_tutor: Tutor, segmentation_tutor: Tutor
) -> None:
    ids, out = devkit.image_ids("Main/train")[:1], tmp_path / "c.zarr"
    with pytest.raises(TutorError, match="--keep-masks keeps the segmentation tutor's masks: name"):
        generate(
            devkit,
            ids,
            TutorPair(detection_tutor, None, generation_config(segmentation__keep_masks=True)),
            out,
        )
    with pytest.raises(TutorError, match=r"segmentation\.yaml does not give the masks"):
        generate(
            devkit,
            ids,
            TutorPair(None, segmentation_tutor, generation_config(segmentation__keep_masks=True)),
            out,
        )
    weights = SAMPLE / "detection.pth"
    with pytest.raises(TutorError, match="gives boxes only; a segmentation tutor needs masks"):
        load_tutor(
            str(SAMPLE / "detection.yaml"),
            "segmentation",
            weights=weights,
            config=generation_config(segmentation__keep_masks=True),
        )


class Improbable:
    """The sample tutor, its mask probabilities spoilt."""

    def __init__(self, tutor: Tutor) -> None:
        self.tutor, self.description = tutor, tutor.description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Instances]:
        found = self.tutor.predict(images)
        assert found[0].mask_probabilities is not None
        found[0].mask_probabilities[0, 3, 4] = np.nan
        return found


def test_what_is_no_probability_is_refused(
    tmp_path: Path, devkit: Devkit, keeping: Detectron2Tutor
) -> None:
    ids = devkit.image_ids("Main/train")[:1]
    with pytest.raises(TutorError, match=f"image {ids[0]}: .*mask probabilities 0..1"):
        generate(
            devkit,
            ids,
            TutorPair(None, Improbable(keeping), generation_config(segmentation__keep_masks=True)),
            tmp_path / "c.zarr",
        )


def test_kept_masks_are_scored_as_the_tutor_gives_them(
    tmp_path: Path, keeping: Detectron2Tutor
) -> None:
    voc = make_sample(tmp_path / "voc", images=9, seed=77)
    ids = voc.image_ids("Segmentation/trainval")
    with_masks, without = tmp_path / "masks.zarr", tmp_path / "plain.zarr"
    keep = generation_config(segmentation__keep_masks=True)
    generate(voc, ids, TutorPair(None, keeping, keep), with_masks)
    generate(voc, ids, TutorPair(None, keeping), without)
    result = evaluate_tutors(TutorCache.open(with_masks), voc, ids).instances
    assert result is not None
    compared = []
    for image_id in ids:
        (found,) = keeping.predict([voc.read_image(image_id)])
        truth = instance_truth(voc, image_id)
        assert truth is not None
        assert found.masks is not None
        said = Detections(found.boxes, found.labels, found.scores)
        compared.append(compare(said, found.masks.astype(bool), truth))
    direct = evaluate_instances(compared, voc.labels.all_names)
    assert direct.map_r > 0.3
    assert result.map_r == pytest.approx(direct.map_r, abs=0.01)
    assert result.coco["coco_map"] == pytest.approx(direct.coco["coco_map"], abs=0.01)
    assert evaluate_tutors(TutorCache.open(without), voc, ids).instances is None
