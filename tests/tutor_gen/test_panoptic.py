"""A panoptic tutor: Detectron2's own PanopticFPN, against the definition computed the slow way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from kdcli.cache.reader import TutorCache
from kdcli.cache.verify import verify
from kdcli.cli import main
from kdcli.common.errors import TutorError
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.door import DefaultPredictor, get_cfg, paste_masks_in_image
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.detectron2.load import from_config, from_zoo
from kdcli.tutor_gen.detectron2.model import weights_url
from kdcli.tutor_gen.detectron2.tutor import Detectron2Tutor
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.labels.coding import code_instances
from kdcli.tutor_gen.labels.panoptic import code_panoptic
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.quality.compare import ALIKE, compare_with_tutors
from kdcli.tutor_gen.registry import load_tutors
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.tutors.kind import Named
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Instances, Panoptic
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import Scene, make_sample

NAMES = ["airplane", "boat", "bottle", "zebra", "cat", "person", "vase", "tv"]
"""The sample tutor's classes, two of them renamed to ones that VOC lacks."""
SCENE = 2
SEMANTIC_HEAD = """
  SEM_SEG_HEAD:
    IN_FEATURES: [p3, p4, p5]
    NUM_CLASSES: 54
    CONVS_DIM: 32
    COMMON_STRIDE: 8
INPUT:
"""


@pytest.fixture(scope="module")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A PanopticFPN: the sample Mask R-CNN and a semantic head of random, not too timid weights."""
    folder = tmp_path_factory.mktemp("panoptic")
    text = (SAMPLE / "segmentation.yaml").read_text()
    text = text.replace("META_ARCHITECTURE: GeneralizedRCNN", "META_ARCHITECTURE: PanopticFPN")
    config = folder / "panoptic.yaml"
    config.write_text(text.replace("\nINPUT:\n", SEMANTIC_HEAD))
    Path(f"{config}.toml").write_text(f"class_names = {NAMES}\n".replace("'", '"'))
    trained = torch.load(SAMPLE / "segmentation.pth", weights_only=True)["model"]
    random = from_config(config, "random:5", settings()).model.state_dict()
    assert {name for name in random if name not in trained} == {
        name for name in random if name.startswith("sem_seg_head.")
    }
    head = "sem_seg_head.predictor."
    bias = random[head + "bias"].clone()
    bias[0] = 4.0  # things: about half of all mass
    random[head + "weight"] *= 4
    torch.save({**random, **trained, head + "bias": bias}, folder / "panoptic.pth")
    return config, folder / "panoptic.pth"


def settings(**changed: Any) -> ModelSettings:
    given: dict[str, Any] = {"score_threshold": 0.05, "detections_per_image": 100, "min_size": None}
    return ModelSettings(**{**given, "masks": True, "device": "cpu", **changed})


def detectron2_says(model_files: tuple[Path, Path], image: NDArray[np.uint8]) -> dict[str, Any]:
    """Detectron2's own predictor: ``instances``, and logits ``sem_seg`` at the image's size."""
    config = get_cfg()
    config.merge_from_file(str(model_files[0]))
    config.MODEL.WEIGHTS = str(model_files[1])
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    output: dict[str, Any] = DefaultPredictor(config)(np.ascontiguousarray(image[..., ::-1]))
    return output


def slow_vectors(
    things: NDArray[np.float64], numbers: Any, scores: Any, covers: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The definition, pixel by pixel: every class's mass, its share of the things, the rest."""
    voc = label_ids(NAMES)
    height, width = things.shape
    vectors = np.zeros((height, width, 21))
    for y in range(height):
        for x in range(width):
            mass = dict.fromkeys(range(len(NAMES)), 0.0)
            for number, score, cover in zip(numbers, scores, covers[:, y, x], strict=True):
                mass[int(number)] = max(mass[int(number)], float(score) * cover)
            whole = max(1.0, sum(mass.values()))
            for number, claimed in mass.items():
                if voc[number]:
                    vectors[y, x, voc[number]] = things[y, x] * claimed / whole
            vectors[y, x, 0] = 1 - vectors[y, x, 1:].sum()
    return vectors


@pytest.mark.parametrize(("masks", "levels"), [("hard", 32), ("soft", 64)])
def test_label_vectors_follow_the_definition(
    model_files: tuple[Path, Path], scenes: list[Scene], masks: Any, levels: int
) -> None:
    image = scenes[SCENE].image  # resized, and padded within the network
    form = LabelForm(masks, levels=levels)
    tutor = from_config(*model_files, settings(form=form, keep_masks=True))
    (found,) = tutor.predict([image])
    assert found.panoptic is not None
    assert len(found) > 0
    assert len(found.panoptic.others) > 0
    said = detectron2_says(model_files, image)
    instances = said["instances"]
    things = said["sem_seg"].double().softmax(dim=0)[0].numpy()
    np.testing.assert_allclose(found.panoptic.things, things, rtol=0, atol=1e-6)
    assert 0.2 < things.mean() < 0.8
    covers = instances.pred_masks.numpy().astype(np.float64)
    if masks == "soft":
        covers = pasted_softly(found, instances, image.shape[:2])
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    for cover, box in zip(covers, instances.pred_boxes.tensor.numpy(), strict=True):
        cover[(xs + 1 <= box[0]) | (xs >= box[2]) | (ys + 1 <= box[1]) | (ys >= box[3])] = 0
    exact = slow_vectors(things, instances.pred_classes.numpy(), instances.scores.numpy(), covers)
    index_map, palette = code_instances(found, form, *image.shape[:2])
    vectors = palette[index_map]
    assert exact[..., 1:].max() > 0.3
    assert np.abs(vectors - exact).max() <= 0.5 / levels + 1e-5
    entries = (exact > 0).sum(axis=-1)
    assert (np.abs(vectors.sum(axis=-1) - 1) <= entries * 0.5 / levels + 1e-6).all()
    assert index_map.min() > 0  # the zero vector is no distribution, no pixel has it
    assert not palette[0].any()


def pasted_softly(found: Instances, instances: Any, size: Any) -> NDArray[np.float64]:
    """Soft masks of all instances in Detectron2's order, from the tutor's own 28 x 28 ones."""
    assert found.panoptic is not None
    both = (found, found.panoptic.others)
    own = np.concatenate([each.mask_probabilities for each in both if each.masks is not None])
    boxes = np.concatenate([each.boxes for each in both])
    order = [
        int(np.abs(boxes - b).sum(axis=1).argmin()) for b in instances.pred_boxes.tensor.numpy()
    ]
    assert sorted(order) == list(range(len(boxes)))
    given = (torch.from_numpy(own[order]), torch.from_numpy(boxes[order]))
    return paste_masks_in_image(*given, size, threshold=-1).numpy() / 255.0


def test_more_classes_than_a_byte_holds_stay_apart(
    model_files: tuple[Path, Path], scenes: list[Scene], tmp_path: Path
) -> None:
    """LVIS has 1,230; of two whose numbers differ by 256 each has a mass of its own."""
    path = tmp_path / "many.yaml"
    path.write_text(model_files[0].read_text().replace("NUM_CLASSES: 8", "NUM_CLASSES: 600"))
    names = ", ".join(f'"{name}"' for name in ["cat", *map(str, range(599))])
    Path(f"{path}.toml").write_text(f"class_names = [{names}]")
    many = from_config(path, "random:3", settings(score_threshold=0.0, min_size=64))
    (found,) = many.predict([scenes[0].image])
    assert found.panoptic is not None
    others = found.panoptic.others
    assert len(np.unique(others.labels)) > len(np.unique(others.labels % 256))
    assert 0 not in others.labels


def test_a_worked_example() -> None:
    """Things .8; a cat of .9 and a zebra of .6 over the first pixel, the cat over the second."""
    boxes = np.array([[0, 0, 3, 1]], dtype=np.float32)
    cat = Instances(
        boxes,
        np.array([8], np.uint8),
        np.array([0.9], np.float32),
        np.array([[[True, True, False]]]),
    )
    zebra = replace(
        cat,
        labels=np.array([22], np.uint8),
        scores=np.array([0.6], np.float32),
        masks=np.array([[[True, False, False]]]),
    )
    things = np.full((1, 3), 0.8, dtype=np.float32)
    index_map, palette = code_panoptic(cat, Panoptic(things, zebra), levels=250)
    vectors = palette[index_map][0]
    # .8 * .9 / 1.5 = .48; .8 * .9 = .72; nothing claims the third pixel.
    np.testing.assert_allclose(vectors[:, 8], [0.48, 0.72, 0], atol=1e-6)
    np.testing.assert_allclose(vectors[:, 0], [0.52, 0.28, 1], atol=1e-6)
    assert not vectors[:, 1:8].any()
    assert not vectors[:, 9:].any()


def test_a_batch_says_what_its_images_say_alone(
    model_files: tuple[Path, Path], scenes: list[Scene]
) -> None:
    tutor = from_config(*model_files, settings())
    images = [scene.image[:120, :100] for scene in scenes[:3]]
    together = tutor.predict_prepared([tutor.preparation(image) for image in images])
    for batched, alone in zip(together, tutor.predict(images), strict=True):
        assert batched.panoptic is not None
        assert alone.panoptic is not None
        np.testing.assert_allclose(batched.panoptic.things, alone.panoptic.things, atol=1e-4)
        np.testing.assert_allclose(batched.boxes, alone.boxes, atol=1e-2)
        assert len(batched.panoptic.others) == len(alone.panoptic.others)


def test_the_same_model_is_a_detector_too(
    model_files: tuple[Path, Path], scenes: list[Scene]
) -> None:
    image = scenes[1].image
    (segmented,) = from_config(*model_files, settings()).predict([image])
    detector = from_config(*model_files, settings(masks=False))
    (detected,) = detector.predict([image])
    np.testing.assert_array_equal(detected.boxes, segmented.boxes)
    assert detected.masks is detected.panoptic is None
    assert "panoptic" not in detector.description


def test_other_classes_below_the_floor_claim_nothing(
    model_files: tuple[Path, Path], scenes: list[Scene]
) -> None:
    (found,) = from_config(*model_files, settings(score_threshold=0.001)).predict([scenes[3].image])
    above = found.above(0.3)
    assert found.panoptic is not None
    assert above.panoptic is not None
    assert 0 < len(above) < len(found)
    assert len(above.panoptic.others) < len(found.panoptic.others)
    assert (above.panoptic.others.scores >= 0.3).all()


def test_its_caches_are_whole_and_made_again(
    tmp_path: Path, devkit: Devkit, model_files: tuple[Path, Path]
) -> None:
    ids, out = devkit.image_ids("Main/train")[:3], tmp_path / "c.zarr"
    config, weights = model_files
    model = {"tutor": str(config), "weights": str(weights)}
    both = load_tutors(generation_config(detection=model, segmentation=model))
    generate(devkit, ids, both, out)
    assert verify(out) == []
    cache = TutorCache.open(out)
    described = cache.settings["label_vectors"]
    assert "things * m[c] / max(1, sum(m))" in described["formula"]
    assert described["levels"] == 32
    named = Named(str(config), weights)
    again = load_again(cache, named, named)
    assert compare_with_tutors(cache, again, devkit, 2).within(ALIKE)


def test_it_has_a_background_of_its_own(model_files: tuple[Path, Path]) -> None:
    tutor = from_config(*model_files, settings())
    for form in (LabelForm(background="rest"), LabelForm(classes="full")):
        with pytest.raises(TutorError, match="leave out --label-classes and --label-background"):
            TutorPair(None, tutor, generation_config(label_vectors=form))


@pytest.mark.parametrize("spoilt", ["nan", "shape"])
def test_a_semantic_head_that_cannot_be_true_is_refused(
    devkit: Devkit, model_files: tuple[Path, Path], spoilt: str
) -> None:
    class Spoilt(Detectron2Tutor):
        def predict_prepared(self, prepared: Any) -> list[Instances]:
            (found,) = super().predict_prepared(prepared)
            assert found.panoptic is not None
            things = found.panoptic.things.copy()
            things[0, 0] = np.nan
            things = things if spoilt == "nan" else things[1:]
            return [replace(found, panoptic=replace(found.panoptic, things=things))]

    tutor = from_config(*model_files, settings())
    tutor.__class__ = Spoilt
    image_id = devkit.image_ids("Main/train")[0]
    with pytest.raises(TutorError, match=f"image {image_id}: .*semantic head's"):
        TutorPair(None, tutor).label(devkit.read_image(image_id), image_id)


def test_the_zoos_models_are_known_with_their_digests() -> None:
    endings = {
        "panoptic_fpn_R_50_1x": "139514544/model_final_dbfeb4.pkl",
        "panoptic_fpn_R_50_3x": "139514569/model_final_c10459.pkl",
        "panoptic_fpn_R_101_3x": "139514519/model_final_cafdb1.pkl",
    }
    for name, ending in endings.items():
        assert weights_url(f"COCO-PanopticSegmentation/{name}").endswith(ending)
    tutor = from_zoo("panoptic_fpn_R_50_3x", "random:1", settings(min_size=64))
    assert tutor.description["panoptic"] == {"semantic_classes": 54}
    assert tutor.description["class_names"][0] == "person"


def test_the_commands_work_on_it(tmp_path: Path, model_files: tuple[Path, Path]) -> None:
    make_sample(tmp_path / "voc", 4, seed=7_500_001)
    cache = str(tmp_path / "c.zarr")
    voc = ["--voc", str(tmp_path / "voc"), "--list", "Segmentation/val"]
    tutor = ["--segmentation-tutor", str(model_files[0])]
    weights = ["--segmentation-weights", str(model_files[1]), "--detection-tutor", "none"]
    runner = CliRunner()
    done = runner.invoke(main, ["generate-tutors", *voc, *tutor, *weights, "--out", cache])
    assert done.exit_code == 0, done.output
    done = runner.invoke(main, ["inspect-cache", cache, "--voc", str(tmp_path / "voc")])
    assert done.exit_code == 0, done.output
    assert "things * m[c] / max(1, sum(m))" in done.output
    assert "rounded to multiples of 1/32" in done.output
    done = runner.invoke(main, ["evaluate-tutors", cache, *voc])
    assert done.exit_code == 0, done.output
    assert "background" in done.output
