"""torchvision's models as tutors say what torchvision's own inference says, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d

from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.config import GenerationConfig, generation_config
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.torchvision.outputs import keep_distributions
from kdcli.tutor_gen.torchvision.preparation import InsideModel
from kdcli.tutor_gen.torchvision.tutor import TorchvisionTutor
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.classes import NUM_CLASSES
from kdcli.voc.scenes.dataset import Scene

SIDE = 96
FLOOR, LIMIT = 0.001, 30
SEEDS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": 3,
    "fasterrcnn_mobilenet_v3_large_fpn": 3,
    "fasterrcnn_resnet50_fpn": 1,
    "fasterrcnn_resnet50_fpn_v2": 1,
    "fcos_resnet50_fpn": 4,
    "maskrcnn_resnet50_fpn": 1,
    "maskrcnn_resnet50_fpn_v2": 1,
    "retinanet_resnet50_fpn": 3,
    "retinanet_resnet50_fpn_v2": 3,
    "ssd300_vgg16": 1,
    "ssdlite320_mobilenet_v3_large": 3,
}
"""Every detector but the one of joints, with a seed whose random weights find some of VOC's."""
MASKS = "maskrcnn_resnet50_fpn"
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
CATEGORIES = torchvision.models.get_model_weights(SMALL).DEFAULT.meta["categories"]

Image = NDArray[np.uint8]


def limit_of(name: str) -> int:
    """More of what is unsure everywhere, as random weights of the mobile models are."""
    return 100 if "mobilenet" in name else LIMIT


def config(name: str = "", **settings: Any) -> GenerationConfig:
    fixed = {} if name.startswith("ssd") else {"inference__min_size": SIDE}
    limit = limit_of(name)
    floor = {f"{role}__score_threshold": FLOOR for role in ("detection", "segmentation")}
    given = {"inference__detections_per_image": limit, "runtime__device": "cpu"}
    return generation_config(None, (), **{**fixed, **given, **floor, **settings})


def tutor(name: str, weights: Path | str = "", **settings: Any) -> TorchvisionTutor:
    role = "segmentation" if name.startswith("maskrcnn") else "detection"
    role = settings.pop("role", role)
    loaded = load_tutor(f"torchvision:{name}", role, weights, config(name, **settings))
    assert isinstance(loaded, TorchvisionTutor)
    return loaded


def seeded(name: str) -> str:
    return f"random:{SEEDS[name]}"


def theirs(name: str, **how: Any) -> Any:
    """torchvision's own model with the tests' settings, by its documented arguments."""
    prefix = "box_" if "rcnn" in name else ""
    limit = limit_of(name)
    given = {f"{prefix}score_thresh": FLOOR, f"{prefix}detections_per_img": limit}
    if not name.startswith("ssd"):
        given["min_size"] = SIDE
    torch.manual_seed(SEEDS[name])
    return get_model(name, **{"weights": None, "weights_backbone": None, **given, **how}).eval()


def says(model: Any, image: Image) -> dict[str, Any]:
    """What it says of one image about VOC's classes."""
    pixels = torchvision.transforms.functional.to_tensor(image)
    with torch.inference_mode():
        (found,) = model([pixels])
    arrays = {key: value.numpy() for key, value in found.items()}
    labels = np.array(label_ids(CATEGORIES))[arrays["labels"]]
    kept = {key: value[labels > 0] for key, value in arrays.items()}
    return {**kept, "labels": labels[labels > 0]}


def assert_equal(found: Instances, expected: dict[str, Any]) -> None:
    assert len(found)
    np.testing.assert_array_equal(found.labels, expected["labels"])
    np.testing.assert_array_equal(found.boxes, expected["boxes"])
    np.testing.assert_array_equal(found.scores, expected["scores"])
    if found.masks is not None:
        np.testing.assert_array_equal(found.masks, expected["masks"][:, 0] >= 0.5)


def test_every_detector_of_torchvision_is_tested_or_refused() -> None:
    names = set(torchvision.models.list_models(torchvision.models.detection))
    assert names == set(SEEDS) | {"keypointrcnn_resnet50_fpn"}


@pytest.mark.parametrize("name", SEEDS)
def test_it_says_what_torchvision_says(name: str, scenes: list[Scene]) -> None:
    image = scenes[0].image
    own = tutor(name, seeded(name))
    (found,) = own.predict([image])
    assert_equal(found, says(theirs(name), image))
    assert (found.masks is not None) == name.startswith("maskrcnn")
    assert found.dropped["class"] > 0
    assert own.description == tutor(name, seeded(name)).description
    assert own.description["name"] == name
    assert own.description["weights"] == seeded(name)


@pytest.fixture(scope="module")
def mask_model() -> Any:
    return theirs(MASKS)


def test_soft_masks_and_its_own_are_torchvisions_probabilities(
    mask_model: Any, scenes: list[Scene]
) -> None:
    image = scenes[0].image
    settings = {"label_vectors__masks": "soft", "segmentation__keep_masks": True}
    (found,) = tutor(MASKS, seeded(MASKS), **settings).predict([image])
    expected = says(mask_model, image)
    assert found.masks is not None
    assert found.masks.dtype == np.uint8
    np.testing.assert_array_equal(found.masks, np.floor(expected["masks"][:, 0] * 255))
    assert len(np.unique(found.masks)) > 50
    own = found.mask_probabilities
    assert own is not None
    assert (own.shape, own.dtype) == ((len(found), 28, 28), np.float32)
    boxes = torch.from_numpy(expected["boxes"])
    pasted = paste_masks_in_image(torch.from_numpy(own)[:, None], boxes, image.shape[:2])
    np.testing.assert_array_equal(pasted, expected["masks"])


def test_each_box_has_the_softmax_that_it_was_made_of(mask_model: Any, scenes: list[Scene]) -> None:
    image = scenes[0].image
    logits: list[torch.Tensor] = []
    predictor = mask_model.roi_heads.box_predictor
    handle = predictor.register_forward_hook(lambda m, i, outputs: logits.append(outputs[0]))
    expected = says(mask_model, image)
    handle.remove()
    spread = tutor(MASKS, seeded(MASKS), label_vectors__classes="full")
    (found,) = spread.predict([image])
    assert_equal(found, expected)
    assert found.distributions is not None
    assert found.distributions.shape == (len(found), NUM_CLASSES)
    probabilities = logits[0].softmax(-1).numpy()
    ids = np.array(label_ids(CATEGORIES))
    columns = [int(np.flatnonzero(ids == label)[0]) for label in range(1, NUM_CLASSES)]
    regions = probabilities[:, columns]
    for own, label, score in zip(found.distributions, found.labels, found.scores, strict=True):
        assert own[0] == 0
        assert own[label] == score
        assert 0.01 < own.sum() < 1
        assert (regions == own[1:]).all(axis=1).any()  # all of it is one region's
    with pytest.raises(TutorError, match="only a Faster or Mask R-CNN does; generate without --la"):
        keep_distributions(nn.Identity(), "ssd300_vgg16")


def test_a_detector_is_a_mask_rcnn_without_masks(mask_model: Any, scenes: list[Scene]) -> None:
    image = scenes[0].image
    detector = tutor(MASKS, seeded(MASKS), role="detection")
    (found,) = detector.predict([image])
    assert found.masks is None
    assert detector.description["masks"] is False
    assert_equal(found, says(mask_model, image))


def test_photographs_in_a_batch_are_those_alone(scenes: list[Scene]) -> None:
    detector = tutor("fasterrcnn_resnet50_fpn", seeded("fasterrcnn_resnet50_fpn"))
    images = [scene.image[:120, :120] for scene in scenes[:3]]
    assert len({image.shape for image in images}) == 1
    prepared = [detector.preparation(image) for image in images]
    for alone, one in zip(
        detector.predict(images), detector.predict_prepared(prepared), strict=True
    ):
        assert len(one)
        np.testing.assert_array_equal(one.labels, alone.labels)
        np.testing.assert_allclose(one.boxes, alone.boxes, rtol=0, atol=1e-2)
        np.testing.assert_allclose(one.scores, alone.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [SMALL, "retinanet_resnet50_fpn", "ssd300_vgg16"])
def test_half_precision_decides_in_float32(name: str, scenes: list[Scene]) -> None:
    """16 bits change scores a little, and never leave coordinates of 8 bits."""
    image = scenes[0].image
    single, half = tutor(name, seeded(name)), tutor(name, seeded(name), inference__amp="bf16")
    assert half.description == {**single.description, "amp": "bfloat16"}
    (expected,), (found,) = single.predict([image]), half.predict([image])
    assert found.boxes.dtype == found.scores.dtype == np.float32
    inner = found.boxes[(found.boxes > 0) & (found.boxes < min(image.shape[:2]))]
    coarse = torch.from_numpy(inner).bfloat16().float().numpy()
    assert (inner != coarse).mean() > 0.9
    assert not np.array_equal(found.scores, expected.scores)
    assert abs(found.scores.max() - expected.scores.max()) < 0.1 * expected.scores.max()


@pytest.mark.parametrize("name", [SMALL, "retinanet_resnet50_fpn", "ssd300_vgg16"])
@pytest.mark.parametrize("size", [(40, 700), (143, 191), (600, 31), (96, 96), (201, 33)])
def test_the_size_inside_the_model_is_known_beforehand(name: str, size: tuple[int, int]) -> None:
    """So that only images that the model pads alike share a batch."""
    transform = theirs(name).transform
    way = InsideModel.of(transform)
    images, _ = transform([torch.zeros(3, *size)])
    assert way.shape(*size) == tuple(images.image_sizes[0])
    assert way.padded_shape(*size) == images.tensors.shape[-2:]


def test_an_image_that_would_become_nothing_is_refused_before_the_network() -> None:
    way = InsideModel(short_side=SIDE, long_side=1333)
    with pytest.raises(TutorError, match="2000 x 1 pixels become 1333 x 0 for the tutor: too narr"):
        way(np.zeros((1, 2000, 3), np.uint8))
    image = np.zeros((5, 7, 3), np.uint8)
    image.flags.writeable = False
    prepared = way(image)
    assert (prepared.pixels.shape, prepared.height, prepared.width) == ((5, 7, 3), 5, 7)


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Path]:
    """A folder for files of weights, which are large, emptied afterwards."""
    yield tmp_path
    for path in tmp_path.rglob("*.pth"):
        path.unlink()


def from_official(name: str, folder: Path) -> Path:
    """A file as torchvision's official ones are: of frozen norms, here of small variances."""
    state = theirs(name).state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    for key in kept:
        if key.endswith("running_var"):
            kept[key] = torch.rand_like(kept[key]) * 1e-4 + 1e-6
            weight = key.replace("running_var", "weight")
            kept[weight] = kept[weight] * kept[key].sqrt() * 0.5
    weights = torchvision.models.get_model_weights(name).DEFAULT
    path = folder / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True)
    torch.save(kept, path)
    return path


@pytest.mark.parametrize("name", [SMALL, "retinanet_resnet50_fpn"])
def test_official_weights_by_name_from_torchvisions_cache_or_as_a_file(
    name: str, trained: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen norms and what torchvision adds to their variances included."""
    monkeypatch.setenv("TORCH_HOME", str(trained))
    path = from_official(name, trained)
    image = scenes[0].image
    enum = torchvision.models.get_model_weights(name)
    model = theirs(name, weights=enum.DEFAULT)
    norms = [each for each in model.modules() if isinstance(each, FrozenBatchNorm2d)]
    assert len(norms) > 20
    expected = says(model, image)
    by_name = [tutor(name, spec) for spec in ("", "COCO_V1", f"{enum.__name__}.COCO_V1")]
    for own in (*by_name, tutor(name, path)):
        assert_equal(own.predict([image])[0], expected)
        assert own.description["weights_sha256"] == sha256_file(path)
    assert by_name[0].description == by_name[2].description
    assert by_name[0].description["weights"] == f"{enum.__name__}.COCO_V1"
    for norm in norms:
        norm.eps = 1e-5 - norm.eps  # the other of the two that torchvision uses
    with pytest.raises(AssertionError):
        assert_equal(by_name[0].predict([image])[0], says(model, image))


def test_weights_of_other_classes_are_named_by_a_sidecar(
    trained: Path, scenes: list[Scene]
) -> None:
    image = scenes[0].image
    model = theirs(SMALL, num_classes=3)
    path = trained / "mine.pth"
    torch.save({"model": model.state_dict(), "epoch": 4}, path)
    with pytest.raises(TutorError, match=r"of 91 classes: expected roi_heads.*of shape \(91, 102"):
        tutor(SMALL, path)
    sidecar = trained / "mine.pth.toml"
    sidecar.write_text('class_names = ["background", "Cat", "zebra"]')
    own = tutor(SMALL, path)
    (found,) = own.predict([image])
    expected = model([torchvision.transforms.functional.to_tensor(image)])[0]
    cats = expected["labels"] == 1
    assert cats.any()
    assert found.labels.tolist() == [8] * int(cats.sum())
    np.testing.assert_array_equal(found.scores, expected["scores"][cats].detach())
    assert own.description["class_names"] == ["background", "Cat", "zebra"]
    assert own.description["taken_for"] == {"Cat": "cat"}
    sidecar.write_text('class_names = ["background", "zebra", "gnu"]')
    with pytest.raises(TutorError, match=r"would label nothing.*mine\.pth\.toml, which are"):
        tutor(SMALL, path)
    sidecar.write_text('class_names = ["cat", "dog"]')
    with pytest.raises(TutorError, match=r"does not fit .* of 2 classes"):
        tutor(SMALL, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights", r"w\.pth cannot be read as a file of PyTorch weights"),
        ({"weights": 3}, r"w\.pth holds no weights by name"),
        ([1, 2], r"w\.pth holds no weights by name"),
        (
            {"layer": torch.zeros(1)},
            r"it lacks 284 of its weights, such as '.*' and holds 1 others, such as 'layer'",
        ),
        ({"model": FrozenBatchNorm2d(1)}, r"holds 'torchvision\.ops\.misc\.FrozenBatchNorm2d'"),
    ],
)
def test_files_that_are_no_weights_of_it(content: Any, message: str, trained: Path) -> None:
    path = trained / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(TutorError, match=message):
        tutor(SMALL, path)


def test_a_download_that_fails_or_is_damaged_is_named(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(trained))
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(TutorError, match=r"cannot download http.*; download that file elsewhere"):
        tutor(SMALL)
    weights = torchvision.models.get_model_weights(SMALL).DEFAULT
    path = trained / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half a file")
    with pytest.raises(TutorError, match=rf"{path.name} is damaged \(.*\): delete it"):
        tutor(SMALL)


@pytest.mark.parametrize(
    ("name", "role", "message"),
    [
        ("keypointrcnn_resnet50_fpn", "detection", "finds people and their joints, no other"),
        ("resnet50", "detection", r"gives neither boxes nor .*\. Its tutors are fasterrcnn_mob"),
        ("deeplabv3_resnet_50", "segmentation", r"did you mean deeplabv3_resnet50\?"),
        ("maskrcnn_resnet_50", "detection", r"did you mean maskrcnn_resnet50_fpn\?"),
        ("fasterrcnn_resnet50_fpn", "segmentation", "gives boxes only; a segmentation tutor needs"),
    ],
)
def test_what_is_no_such_tutor_is_refused_before_any_weights(
    name: str, role: Any, message: str
) -> None:
    with pytest.raises(TutorError, match=rf"^torchvision:{name} .*{message}"):
        load_tutor(f"torchvision:{name}", role)


def test_weights_and_sizes_that_it_does_not_know() -> None:
    with pytest.raises(TutorError, match=r"DEFALT does not exist.*COCO_V1.*did you mean DEFAULT\?"):
        tutor(SMALL, "DEFALT")
    with pytest.raises(TutorError, match="random:SEED with a number, got 'random:x'"):
        tutor(SMALL, "random:x")
    with pytest.raises(TutorError, match="ssd300_vgg16 resizes every image to 300 x 300; drop --m"):
        tutor("ssd300_vgg16", "random:1", inference__min_size=200)
