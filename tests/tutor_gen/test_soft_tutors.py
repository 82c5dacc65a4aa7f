"""What Detectron2 says in softer forms: the same as its own parts give, and kept in a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdcli.cache.merge import merge_caches
from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.common.errors import CacheError, TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.door import paste_masks_in_image
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.detectron2.load import from_config, from_zoo
from kdcli.tutor_gen.detectron2.tutor import Detectron2Tutor
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.quality.compare import ALIKE, compare_with_tutors
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Tutor
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import Scene

CONFIG, WEIGHTS = SAMPLE / "segmentation.yaml", SAMPLE / "segmentation.pth"
SOFT = LabelForm("soft", "full", "complement")


def loaded(form: LabelForm, **changed: Any) -> Detectron2Tutor:
    given = {"score_threshold": 0.05, "detections_per_image": 100, "min_size": None, "masks": True}
    settings = ModelSettings(**{**given, "device": "cpu", "form": form, **changed})
    return from_config(CONFIG, WEIGHTS, settings)


@pytest.fixture(scope="module")
def soft() -> Detectron2Tutor:
    return loaded(SOFT, keep_masks=True)


def test_soft_masks_are_what_detectron2_pastes(
    soft: Detectron2Tutor, segmentation_tutor: Tutor, scenes: list[Scene]
) -> None:
    images = [scene.image for scene in scenes]
    (hard_one, *_) = segmentation_tutor.predict(images)
    for image, found in zip(images, soft.predict(images), strict=True):
        assert found.mask_probabilities is not None
        pasted = paste_masks_in_image(
            torch.from_numpy(found.mask_probabilities),
            torch.from_numpy(found.boxes),
            image.shape[:2],
            threshold=-1,
        )
        assert found.masks is not None
        assert found.masks.dtype == np.uint8
        np.testing.assert_array_equal(found.masks, pasted.numpy())
    (soft_one, *_) = soft.predict(images)
    kept = hard_one.scores > 0.05
    np.testing.assert_array_equal(soft_one.boxes, hard_one.boxes[kept])
    assert hard_one.masks is not None
    assert soft_one.masks is not None
    # Half of 255, rounded down, is 127; a probability of exactly one half is the only doubt.
    np.testing.assert_array_equal((soft_one.masks > 127) & ~hard_one.masks[kept], False)
    np.testing.assert_array_equal((soft_one.masks < 127) & hard_one.masks[kept], False)


def test_distributions_are_the_box_heads_own(soft: Detectron2Tutor, scenes: list[Scene]) -> None:
    """The softmax of the class logits, caught by a hook, holds every box's distribution."""
    caught: list[torch.Tensor] = []
    predictor: Any = soft.model.roi_heads.box_predictor
    hook = predictor.register_forward_hook(lambda *given: caught.append(given[-1][0]))
    (found,) = soft.predict([scenes[0].image])
    hook.remove()
    assert len(found) >= 3
    assert found.distributions is not None
    (logits,) = caught
    voc = [1, 4, 5, 6, 8, 15, 16, 20]
    everything = logits.softmax(dim=1)[:, :-1].numpy()
    for label, confidence, row in zip(found.labels, found.scores, found.distributions, strict=True):
        assert row[label] == confidence
        assert (np.abs(everything - row[voc]).max(axis=1) < 1e-7).any()
        assert not np.delete(row, voc).any()
    assert (found.distributions.sum(axis=1) <= 1 + 1e-6).all()


def test_a_detector_without_one_distribution_a_box_is_refused(tmp_path: Path) -> None:
    name = "Misc/cascade_mask_rcnn_R_50_FPN_3x"
    settings = ModelSettings(0.05, 10, 64, masks=True, form=LabelForm(classes="full"))
    with pytest.raises(TutorError, match=r"cascade.* does not give the class distribution"):
        from_zoo(name, "random:0", settings)


def test_soft_caches_are_whole_and_say_how_they_were_made(
    tmp_path: Path, devkit: Devkit, soft: Detectron2Tutor
) -> None:
    ids, out = devkit.image_ids("Main/train")[:3], tmp_path / "c.zarr"
    tutor = load_tutor(
        "sample",
        "segmentation",
        config=generation_config(segmentation__score_threshold=0.05, label_vectors=SOFT),
    )
    generate(
        devkit,
        ids,
        TutorPair(None, tutor, generation_config(label_vectors=SOFT)),
        out,
    )
    assert verify(out) == []
    cache = TutorCache.open(out)
    described = cache.settings["label_vectors"]
    assert described["levels"] == 32
    assert described["rounding_error"] == 0.5 / 32
    assert described["background"] == "complement"
    for image_id in ids:
        palette = cache.palette(image_id)
        np.testing.assert_allclose(
            palette[1:, 0], np.prod(1 - palette[1:, 1:], axis=1), rtol=0, atol=0.5 / 32
        )
        assert len(palette) > 64  # hard ones are a dozen
    again = load_again(cache)
    assert again.config.label_vectors == SOFT
    assert compare_with_tutors(cache, again, devkit, 2).within(ALIKE)


def test_caches_made_differently_do_not_mix(
    tmp_path: Path, devkit: Devkit, segmentation_tutor: Tutor
) -> None:
    ids = devkit.image_ids("Main/train")
    generate(devkit, ids[:2], TutorPair(None, segmentation_tutor), tmp_path / "a.zarr")
    rest = LabelForm(background="rest")
    with pytest.raises(CacheError, match="label_vectors"):
        generate(
            devkit,
            ids[:2],
            TutorPair(None, segmentation_tutor, generation_config(label_vectors=rest)),
            tmp_path / "a.zarr",
        )
    generate(
        devkit,
        ids[2:4],
        TutorPair(None, segmentation_tutor, generation_config(label_vectors=rest)),
        tmp_path / "b.zarr",
    )
    with pytest.raises(CacheError, match="label_vectors"):
        merge_caches([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "c.zarr")


def test_photographs_with_hundreds_of_levels(
    tmp_path: Path, photographs: list[NDArray[np.uint8]], soft: Detectron2Tutor
) -> None:
    """The definition from Detectron2's soft masks, one instance at a time, within half a level."""
    from kdcli.tutor_gen.labels.coding import code_instances

    image = photographs[1]
    (found,) = loaded(SOFT, min_size=130, score_threshold=0.3).predict([image])
    assert len(found) > 2
    assert found.masks is not None
    assert found.distributions is not None
    exact = np.zeros((*image.shape[:2], 21))
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    for mask, box, row in zip(found.masks, found.boxes, found.distributions, strict=True):
        touched = (xs + 1 > box[0]) & (xs < box[2]) & (ys + 1 > box[1]) & (ys < box[3])
        cover = np.where(touched, mask / 255, 0)
        np.maximum(exact, cover[..., None] * row, out=exact)
    index_map, palette = code_instances(found, SOFT, *image.shape[:2])
    apart = np.abs(palette[index_map] - exact)[..., 1:]
    assert apart.max() <= 0.5 / 32 + 1e-6
    assert exact.max() > 0.3
