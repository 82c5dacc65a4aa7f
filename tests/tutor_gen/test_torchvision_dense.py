"""torchvision's segmentation networks as tutors: their own cells, up to the store's rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights
from torchvision.transforms._presets import SemanticSegmentation

from kdcli.cache.format.grid import spread
from kdcli.cache.reader import TutorCache
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.tutor_gen.config import GenerationConfig, generation_config
from kdcli.tutor_gen.generate import generate
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.reload import load_again
from kdcli.tutor_gen.torchvision.dense import DenseTutor
from kdcli.tutor_gen.tutors.kind import Named
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.voc.classes import CLASSES, NUM_CLASSES
from kdcli.voc.devkit import Devkit
from kdcli.voc.scenes.dataset import Scene

SIDE = 97
LEVELS = 32
SMALL = "lraspp_mobilenet_v3_large"
NAMES = torchvision.models.list_models(torchvision.models.segmentation)


def config(**settings: Any) -> GenerationConfig:
    return generation_config(
        **{"inference__min_size": SIDE, "runtime__device": "cpu", **settings},
        label_vectors__levels=LEVELS,
    )


def preset(image: NDArray[np.uint8]) -> Tensor:
    """torchvision's own preprocessing, (1, 3, h, w)."""
    pixels: Tensor = SemanticSegmentation(resize_size=SIDE)(Image.fromarray(image))[None]
    return pixels


def decided(name: str, scenes: list[Scene], seed: int = 5, classes: int = NUM_CLASSES) -> nn.Module:
    """A model with random weights that has opinions: norms that fit, and large logits."""
    torch.manual_seed(seed)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    images = torch.cat([preset(scene.image)[..., :SIDE, :SIDE] for scene in scenes[:4]])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # one pass in training mode then sets what it expects
    with torch.no_grad():
        model(images)
        scale = 4 / model.eval()(images)["out"].std()
        for layer in model.classifier.modules():
            if isinstance(layer, nn.Conv2d) and layer.out_channels == classes:
                layer.weight *= scale
    return model


def logits_of(model: Any, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """What torchvision's model says: of its cells (K, h, w), and enlarged to its input."""
    kept = []
    hook = model.classifier.register_forward_hook(lambda module, given, out: kept.append(out))
    with torch.inference_mode():
        enlarged = model(preset(image))["out"]
    hook.remove()
    return kept[0][0], enlarged[0]


@pytest.fixture(scope="module", params=NAMES)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]
) -> tuple[nn.Module, DenseTutor, Path]:
    """torchvision's model, and the same as a tutor by its name and a file."""
    model = decided(request.param, scenes)
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    torch.save(model.state_dict(), path)
    tutor = load_tutor(f"torchvision:{request.param}", "segmentation", path, config())
    assert isinstance(tutor, DenseTutor)
    return model, tutor, path


def test_its_cells_are_torchvisions(
    both: tuple[nn.Module, DenseTutor, Path], scenes: list[Scene]
) -> None:
    model, tutor, path = both
    image = scenes[1].image
    (said,) = tutor.predict([image])
    logits, _ = logits_of(model, image)
    np.testing.assert_array_equal(said.probabilities, torch.softmax(logits, 0).numpy())
    assert said.window is None  # the cells cover the image, as torchvision enlarges them
    assert tutor.description["weights_sha256"] == sha256_file(path)
    assert tutor.description["class_names"][:2] == ["__background__", "aeroplane"]


def test_what_is_stored_enlarged_is_what_torchvision_says(
    both: tuple[nn.Module, DenseTutor, Path], scenes: list[Scene]
) -> None:
    """Its probabilities, to the bound that the store states, and so the class where that is sure.

    torchvision enlarges logits, not probabilities: between cells of two classes the border may lie
    elsewhere, between cells of one there is none.
    """
    model, tutor, _ = both
    pair = TutorPair(None, tutor, config())
    bound = pair.settings["label_vectors"]["rounding_error"]
    assert bound == 0.5 / LEVELS
    compared = []
    for scene in scenes[:3]:
        logits, enlarged = logits_of(model, scene.image)
        size = enlarged.shape[1:]
        output, _ = pair.label(scene.image, "x")
        assert output.index_map.shape == logits.shape[1:]
        assert output.window is not None
        stored = spread(output.label_vectors(), output.window, *size).transpose(2, 0, 1)
        cells = torch.softmax(logits, 0)
        said = F.interpolate(cells[None], size, mode="bilinear")[0].numpy()
        assert np.abs(stored - said).max() <= bound + 1e-6
        first, second = np.sort(said, axis=0)[::-1][:2]
        sure = first - second > 2 * bound
        np.testing.assert_array_equal(stored.argmax(0)[sure], said.argmax(0)[sure])
        classes = F.one_hot(cells.argmax(0), NUM_CLASSES).permute(2, 0, 1)[None].float()
        shares = F.interpolate(classes, size, mode="bilinear")[0].amax(0).numpy()
        within = sure & (shares > 1 - 1e-6)
        np.testing.assert_array_equal(stored.argmax(0)[within], enlarged.argmax(0).numpy()[within])
        compared.append((sure.mean(), within.mean()))
    assert (np.mean(compared, axis=0) > (0.5, 0.01)).all(), compared


def test_a_batch_says_what_its_images_say(scenes: list[Scene]) -> None:
    tutor = load_tutor(f"torchvision:{SMALL}", "segmentation", "random:4", config())
    assert isinstance(tutor, DenseTutor)
    images = [scenes[0].image, scenes[0].image[:, ::-1]]
    together = tutor.predict_prepared([tutor.preparation(image) for image in images])
    for alone, said in zip(tutor.predict(images), together, strict=True):
        np.testing.assert_allclose(said.probabilities, alone.probabilities, atol=1e-5)


def test_half_precision_stays_close(scenes: list[Scene], tmp_path: Path) -> None:
    torch.save(decided(SMALL, scenes).state_dict(), tmp_path / "own.pth")
    spec = (f"torchvision:{SMALL}", "segmentation", tmp_path / "own.pth")
    whole, half = load_tutor(*spec, config()), load_tutor(*spec, config(inference__amp="bf16"))
    assert isinstance(whole, DenseTutor)
    assert isinstance(half, DenseTutor)
    (a,), (b,) = whole.predict([scenes[2].image]), half.predict([scenes[2].image])
    assert (a.probabilities.argmax(0) == b.probabilities.argmax(0)).mean() > 0.9
    assert 0 < np.abs(a.probabilities - b.probabilities).mean() < 0.02
    assert half.description["amp"] == "bfloat16"


@pytest.mark.parametrize("size", [(40, 50), (50, 40), (31, 77), (64, 64), (375, 500), (500, 333)])
def test_the_resize_is_torchvisions(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    tutor = load_tutor(f"torchvision:{SMALL}", "segmentation", "random:4", config())
    assert isinstance(tutor, DenseTutor)
    prepared = tutor.preparation(image)
    whole = SemanticSegmentation(resize_size=SIDE, mean=(0, 0, 0), std=(1, 1, 1))
    expected = (whole(Image.fromarray(image)) * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(prepared.pixels, expected)
    assert tutor.preparation.shape(*size) == tuple(expected.shape[:2])


@pytest.mark.parametrize("name", NAMES)
def test_the_size_is_the_weights_own(name: str) -> None:
    tutor = load_tutor(f"torchvision:{name}", "segmentation", "random:4")
    assert tutor is not None
    assert [tutor.description["min_size"]] == get_model_weights(
        name
    ).DEFAULT.transforms().resize_size


def test_other_classes_go_to_the_background(scenes: list[Scene], tmp_path: Path) -> None:
    """By the names in the weights' sidecar; two kinds of cat add up."""
    path = tmp_path / "own.pth"
    model = decided(SMALL, scenes, classes=4)
    torch.save({"model": model.state_dict()}, path)  # as torchvision's training script saves it
    sidecar_path(path).write_text('class_names = ["sky", "cat", "Cat", "person"]')
    other = tmp_path / "unnamed.pth"
    other.write_bytes(path.read_bytes())
    with pytest.raises(TutorError, match=r"expected .* of shape \(21, .*, got \(4, .*class_names"):
        load_tutor(f"torchvision:{SMALL}", "segmentation", other, config())
    tutor = load_tutor(f"torchvision:{SMALL}", "segmentation", path, config())
    assert tutor is not None
    (said,) = tutor.predict([scenes[0].image])
    own = torch.softmax(logits_of(model, scenes[0].image)[0], 0).numpy()
    assert isinstance(tutor, DenseTutor)
    np.testing.assert_allclose(said.probabilities[CLASSES.index("cat")], own[1] + own[2], atol=1e-6)
    np.testing.assert_allclose(said.probabilities[0], own[0], atol=1e-6)
    assert not said.probabilities[1 : CLASSES.index("cat")].any()


def test_a_store_of_it_is_verified_and_a_second_head_ignored(
    devkit: Devkit, scenes: list[Scene], tmp_path: Path
) -> None:
    """The official files hold a head that only training wants."""
    torch.manual_seed(0)
    model = get_model("fcn_resnet50", weights=None, weights_backbone=None, aux_loss=True)
    path = tmp_path / "own.pth"
    torch.save(model.state_dict(), path)
    spec = "torchvision:fcn_resnet50"
    tutor = load_tutor(spec, "segmentation", path, config())
    ids, out = devkit.image_ids("Main/train")[:2], tmp_path / "dense.zarr"
    generate(devkit, ids, TutorPair(None, tutor, config()), out)
    cache = TutorCache.open(out)
    again = load_again(cache, segmentation=Named(spec, str(path)))
    image = devkit.read_image(ids[0])
    output, _ = again.label(image, ids[0])
    np.testing.assert_array_equal(output.label_vectors(), cache[ids[0]].label_vectors())
    with pytest.raises(TutorError, match="name it with --segmentation-tutor"):
        load_again(cache)


def test_it_gives_no_boxes() -> None:
    for name in NAMES:
        with pytest.raises(
            TutorError, match=rf"^torchvision:{name} gives a class for each pixel, n"
        ):
            load_tutor(f"torchvision:{name}", "detection")
