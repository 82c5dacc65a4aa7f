from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.detectron2 import zoo
from kdcli.tutor_gen.detectron2.door import (
    DefaultPredictor,
    Detectron2Instances,
    MetadataCatalog,
    get_cfg,
)
from kdcli.tutor_gen.detectron2.kind import SAMPLE_FILES as SAMPLE
from kdcli.tutor_gen.detectron2.load import from_config, from_zoo
from kdcli.tutor_gen.detectron2.model import download, weights_url
from kdcli.tutor_gen.detectron2.tutor import Detectron2Tutor
from kdcli.tutor_gen.labels.hard import code_label_vectors
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.scenes.dataset import Scene

Image = NDArray[np.uint8]


def settings(**changed: Any) -> ModelSettings:
    chosen = {
        "score_threshold": 0.001,
        "detections_per_image": 100,
        "min_size": None,
        "masks": False,
    }
    return ModelSettings(**{**chosen, "device": "cpu", **changed})


def sample(role: str, **changed: Any) -> Detectron2Tutor:
    given = settings(masks=role == "segmentation", **changed)
    return from_config(SAMPLE / f"{role}.yaml", SAMPLE / f"{role}.pth", given)


def predictor(config_file: Path, weights: Path, **changed: Any) -> DefaultPredictor:
    """Detectron2's own, at the same thresholds."""
    given = settings(**changed)
    config = get_cfg()
    config.merge_from_file(str(config_file))
    config.MODEL.WEIGHTS = str(weights)
    config.MODEL.DEVICE = "cpu"
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = given.score_threshold
    config.TEST.DETECTIONS_PER_IMAGE = given.detections_per_image
    if given.min_size is not None:
        config.INPUT.MIN_SIZE_TEST = given.min_size
    return DefaultPredictor(config)


def assert_same(found: Instances, output: Any, ids: list[int]) -> None:
    """Ours equals Detectron2's ``Instances``, classes that VOC lacks left out, bit for bit."""
    numbers = output.pred_classes.numpy()
    labels = np.array(ids, dtype=np.uint8)[numbers]
    kept = labels > 0
    np.testing.assert_array_equal(found.labels, labels[kept])
    np.testing.assert_array_equal(found.boxes, output.pred_boxes.tensor.numpy()[kept])
    np.testing.assert_array_equal(found.scores, output.scores.numpy()[kept])
    assert sum(found.dropped.values()) == (~kept).sum()
    if found.masks is not None:
        np.testing.assert_array_equal(found.masks, output.pred_masks.numpy()[kept])


def assert_label_vectors_follow_the_definition(found: Instances, image: Image) -> None:
    """Coded label vectors equal those made of Detectron2's pasted masks one instance at a time."""
    assert found.masks is not None
    slow = np.zeros((*image.shape[:2], 21), dtype=np.float32)
    for mask, label, confidence in zip(found.masks, found.labels, found.scores, strict=True):
        slow[mask, label] = np.maximum(slow[mask, label], confidence)
    index_map, palette = code_label_vectors(
        found.masks, found.labels, found.scores, *image.shape[:2], found.boxes
    )
    np.testing.assert_array_equal(palette[index_map], slow)


SAMPLE_VOC_IDS = [1, 4, 5, 6, 8, 15, 16, 20]


@pytest.mark.parametrize("role", ["detection", "segmentation"])
def test_sample_tutors_equal_detectron2_on_scenes(role: str, scenes: list[Scene]) -> None:
    tutor = sample(role)
    theirs = predictor(SAMPLE / f"{role}.yaml", SAMPLE / f"{role}.pth")
    found = tutor.predict([scene.image for scene in scenes])
    for scene, ours in zip(scenes, found, strict=True):
        assert len(ours) > 5
        output = theirs(np.ascontiguousarray(scene.image[..., ::-1]))["instances"]
        assert_same(ours, output, SAMPLE_VOC_IDS)
        if role == "segmentation":
            assert_label_vectors_follow_the_definition(ours, scene.image)


@pytest.mark.parametrize("role", ["detection", "segmentation"])
def test_sample_tutors_equal_detectron2_on_photographs(role: str, photographs: list[Image]) -> None:
    changed = {"score_threshold": 0.0, "detections_per_image": 40, "min_size": 130}
    tutor = sample(role, **changed)
    theirs = predictor(SAMPLE / f"{role}.yaml", SAMPLE / f"{role}.pth", **changed)
    for image in photographs:
        (ours,) = tutor.predict([image])
        assert len(ours) == 40
        output = theirs(np.ascontiguousarray(image[..., ::-1]))["instances"]
        assert_same(ours, output, SAMPLE_VOC_IDS)
        if role == "segmentation":
            assert_label_vectors_follow_the_definition(ours, image)


@pytest.fixture(scope="module")
def zoo_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights of R50-FPN in the zoo's own form (a pickle of arrays), from a seed."""
    tutor = from_zoo("mask_rcnn_R_50_FPN_3x", "random:2", settings(masks=True))
    weights = {name: w.numpy() for name, w in tutor.model.state_dict().items()}
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "test"}, protocol=4))
    yield path
    path.unlink()


def test_a_full_mask_rcnn_of_the_zoo_equals_detectron2(
    zoo_weights: Path, scenes: list[Scene]
) -> None:
    changed = {"min_size": 128, "detections_per_image": 12, "masks": True}
    tutor = from_zoo("mask_rcnn_R_50_FPN_3x", zoo_weights, settings(**changed))
    config_file = zoo.config_path("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x")
    theirs = predictor(config_file, zoo_weights, **changed)
    image = scenes[0].image
    (ours,) = tutor.predict([image])
    output = theirs(np.ascontiguousarray(image[..., ::-1]))["instances"]
    assert len(output) == 12
    assert len(ours) > 0
    coco = label_ids(MetadataCatalog.get("coco_2017_val").thing_classes)
    assert_same(ours, output, list(coco))
    assert_label_vectors_follow_the_definition(ours, image)


def test_random_weights_are_a_function_of_the_seed_and_say_so(scenes: list[Scene]) -> None:
    config = SAMPLE / "detection.yaml"
    state = torch.random.get_rng_state()
    first, again, other = (
        from_config(config, f"random:{seed}", settings(score_threshold=0.0)) for seed in (7, 7, 8)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.description == again.description
    assert first.description["weights"] == "random:7"
    images = [scenes[0].image]
    np.testing.assert_array_equal(first.predict(images)[0].boxes, again.predict(images)[0].boxes)
    assert not np.array_equal(first.predict(images)[0].boxes, other.predict(images)[0].boxes)
    with pytest.raises(TutorError, match="random:SEED with a number, got 'random:x'"):
        from_config(config, "random:x", settings())


def test_floor_and_limit_are_the_models_own(scenes: list[Scene]) -> None:
    images = [scenes[1].image]
    (everything,) = sample("detection", score_threshold=0.0).predict(images)
    (confident,) = sample("detection", score_threshold=0.3).predict(images)
    (few,) = sample("detection", score_threshold=0.0, detections_per_image=3).predict(images)
    assert everything.scores.min() < 0.01
    kept = everything.scores > 0.3
    np.testing.assert_array_equal(confident.boxes, everything.boxes[kept])
    np.testing.assert_array_equal(few.boxes, everything.boxes[:3])


def test_a_mask_rcnn_can_be_a_detector_with_the_same_boxes(scenes: list[Scene]) -> None:
    files = SAMPLE / "segmentation.yaml", SAMPLE / "segmentation.pth"
    images = [scenes[2].image]
    (with_masks,) = from_config(*files, settings(masks=True)).predict(images)
    (without,) = from_config(*files, settings(masks=False)).predict(images)
    assert without.masks is None
    np.testing.assert_array_equal(with_masks.boxes, without.boxes)


def test_the_description_is_provenance() -> None:
    first = sample("segmentation").description
    assert first["weights_sha256"] == sha256_file(SAMPLE / "segmentation.pth")
    assert first["class_names"][0] == "airplane"
    assert first == sample("segmentation").description
    for changed in ({"score_threshold": 0.1}, {"min_size": 100}, {"detections_per_image": 7}):
        other = sample("segmentation", **changed).description
        assert other["config_sha256"] != first["config_sha256"]


def test_detectors_cannot_be_segmentation_tutors() -> None:
    with pytest.raises(TutorError, match=r"detection\.yaml gives boxes only"):
        from_config(SAMPLE / "detection.yaml", SAMPLE / "detection.pth", settings(masks=True))


def test_weights_have_to_fit(tmp_path: Path) -> None:
    config = SAMPLE / "detection.yaml"
    weights = torch.load(SAMPLE / "detection.pth", weights_only=True)["model"]
    partial = {name: w for name, w in weights.items() if "roi_heads" not in name}
    torch.save(partial, tmp_path / "partial.pth")
    with pytest.raises(TutorError, match=r"partial\.pth lacks \d+ of the model's weights, the fir"):
        from_config(config, tmp_path / "partial.pth", settings())
    name = "roi_heads.box_predictor.cls_score.bias"
    torch.save({**weights, name: torch.zeros(5)}, tmp_path / "other.pth")
    with pytest.raises(TutorError, match=rf"expected {name} of shape \(9,\), got \(5,\)"):
        from_config(config, tmp_path / "other.pth", settings())
    with pytest.raises(TutorError, match=r"none\.pth does not exist"):
        from_config(config, tmp_path / "none.pth", settings())
    with pytest.raises(TutorError, match="needs a weights file: give it with --detection-weights"):
        from_config(config, None, settings())


def test_class_numbers_have_to_be_explained(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_bytes((SAMPLE / "detection.yaml").read_bytes())
    with pytest.raises(TutorError, match=r"has 8 classes but 0 class names .*mine\.yaml\.toml"):
        from_config(config, "random:0", settings())
    (tmp_path / "mine.yaml.toml").write_text('class_names = ["cat"]')
    with pytest.raises(TutorError, match="has 8 classes but 1 class names"):
        from_config(config, "random:0", settings())


def test_configurations_of_known_data_sets_explain_themselves(
    tmp_path: Path, scenes: list[Scene]
) -> None:
    text = (SAMPLE / "detection.yaml").read_text().replace("NUM_CLASSES: 8", "NUM_CLASSES: 20")
    config = tmp_path / "voc.yaml"
    config.write_text(text + 'DATASETS:\n  TEST: ("voc_2012_val",)\n')
    tutor = from_config(config, "random:0", settings(score_threshold=0.0))
    assert tutor.description["class_names"][:2] == ["aeroplane", "bicycle"]
    (found,) = tutor.predict([scenes[0].image])
    assert len(found) == 100
    assert found.dropped == {}


@pytest.mark.parametrize(
    "content",
    ["MODEL: [", "MODEL:\n  NO_SUCH_KEY: 1\n", "!!python/object/apply:os.system ['true']", "text"],
)
def test_other_files_are_no_configuration(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(TutorError, match=r"x\.yaml is not a Detectron2 configuration"):
        from_config(path, "random:0", settings())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nc: 80\nnames: [cat]\nbackbone: []\n", "its keys are nc, names, backbone, Detectron2's"),
        ("model:\n  _target_: detectron2.x\n", r"a LazyConfig saved as YAML \(keys model\)"),
        ("", "expected keys such as MODEL, got None"),
    ],
)
def test_configurations_of_other_tools_are_said_to_be_so(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(
        TutorError, match=rf"x\.yaml is not a Detectron2 configuration: .*{message}"
    ):
        from_config(path, "random:0", settings())


def changed_sample(tmp_path: Path, *changes: str) -> Path:
    """The sample detector's configuration, with values of MODEL or INPUT changed."""
    config = get_cfg()
    config.merge_from_file(str(SAMPLE / "detection.yaml"))
    config.merge_from_list(changes)
    path = tmp_path / "changed.yaml"
    path.write_text(config.dump())
    (tmp_path / "changed.yaml.toml").write_bytes((SAMPLE / "detection.yaml.toml").read_bytes())
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"), r"gives rotated boxes \(RRPN\), VOC's are upr"),
        (("MODEL.ROI_HEADS.NAME", "RROIHeads"), r"gives rotated boxes \(RROIHeads\)"),
        (
            ("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
            "which gives regions without classes; a t",
        ),
        (("MODEL.META_ARCHITECTURE", "SemanticSegmentor"), "a class for each pixel but no objects"),
        (
            ("MODEL.META_ARCHITECTURE", "Sparse"),
            "is a Sparse, which Detectron2 alone does not know",
        ),
        (
            ("MODEL.LOAD_PROPOSALS", "True"),
            "is a Fast R-CNN, which wants another network's regions",
        ),
        (("INPUT.FORMAT", "L"), "wants its images as L, tutors get them as BGR or RGB"),
        (("MODEL.ROI_HEADS.NAME", "Cascaded"), "needs more than Detectron2: .*'Cascaded'"),
    ],
)
def test_models_that_give_no_upright_boxes_are_refused_before_the_run(
    tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TutorError, match=message):
        from_config(changed_sample(tmp_path, *changes), "random:0", settings())


def test_outputs_that_are_no_upright_boxes_are_refused(scenes: list[Scene]) -> None:
    from detectron2.structures import RotatedBoxes  # after _detectron2, which patches it

    rotated = Detectron2Instances((9, 9), pred_boxes=RotatedBoxes(torch.ones(1, 5)))
    tutor = sample("detection")
    for output, message in (
        ({"sem_seg": torch.zeros(3)}, r"detection\.yaml gives no instances .* but sem_seg"),
        ({"instances": rotated}, r"detection\.yaml gives boxes of 5 numbers, rotated ones perhaps"),
    ):
        tutor.model.forward = lambda inputs, output=output: [output]
        with pytest.raises(TutorError, match=message):
            tutor.predict([scenes[0].image])


def test_a_retinanet_of_the_zoo_is_a_detector_and_no_segmentation_tutor() -> None:
    """Its configuration computes its anchors, which only Detectron2's own may do."""
    tutor = from_zoo(
        "retinanet_R_50_FPN_1x", "random:1", settings(score_threshold=0.0, min_size=64)
    )
    (found,) = tutor.predict([np.zeros((64, 80, 3), dtype=np.uint8)])
    assert sum(found.dropped.values()) + len(found) > 0
    with pytest.raises(TutorError, match="gives boxes only"):
        from_zoo("retinanet_R_50_FPN_1x", "random:1", settings(masks=True))


def test_class_names_in_any_spelling_label_the_same(tmp_path: Path, scenes: list[Scene]) -> None:
    path = changed_sample(tmp_path)
    names = '["Airplane", "Boat", "Bottle", "Bus", "Cat", "Person", "Potted Plant", "TV"]'
    (tmp_path / "changed.yaml.toml").write_text(f"class_names = {names}")
    tutor = from_config(path, SAMPLE / "detection.pth", settings())
    (found,), (expected,) = (t.predict([scenes[0].image]) for t in (tutor, sample("detection")))
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert tutor.description["taken_for"]["Potted Plant"] == "pottedplant"
    assert "taken_for" not in sample("detection").description
    (tmp_path / "changed.yaml.toml").write_text('class_names = ["' + '", "'.join("abcdefgh") + '"]')
    with pytest.raises(
        TutorError, match=r"would label nothing: .*'h'\. Say in .*changed\.yaml\.toml"
    ):
        from_config(path, SAMPLE / "detection.pth", settings())


def test_unsafe_yaml_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "x.yaml"
    path.write_text(f"MODEL: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(TutorError, match=r"is not a Detectron2 configuration: .* would run code"):
        from_config(path, "random:0", settings())
    (tmp_path / "y.yaml").write_text("_BASE_: x.yaml\nVERSION: 2\n")
    with pytest.raises(TutorError, match=r"is not a Detectron2 configuration: .* would run code"):
        from_config(tmp_path / "y.yaml", "random:0", settings())
    assert not mark.exists()


def test_a_download_that_fails_says_which_file_to_bring() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused at once
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/model_final_280758.pkl"
        with pytest.raises(
            TutorError, match=r"cannot download http.*model_final_280758\.pkl .*--d"
        ):
            download(url)


def test_zoo_models_without_official_weights_say_so() -> None:
    with pytest.raises(TutorError, match="offers no weights for"):
        weights_url("Misc/cascade_mask_rcnn_R_50_FPN_1x_no_such")
