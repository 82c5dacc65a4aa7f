"""Exports that say a class of every cell: small networks, torchvision's, our own students'."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torchvision.models import get_model

import kdcli
from kdcli.cache.format.grid import spread
from kdcli.cli import main
from kdcli.common.errors import TutorError
from kdcli.student.evaluation.onnx import export_onnx
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.pipeline.pair import TutorPair
from kdcli.tutor_gen.registry import load_tutor, load_tutors
from kdcli.tutor_gen.tutors.checks import check_semantic
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.tutor_gen.tutors.tutor import Instances, SemanticOutput
from kdcli.voc.classes import CLASS_IDS, NUM_CLASSES
from kdcli.voc.scenes.dataset import Scene

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")
both_engines = pytest.mark.parametrize(
    "engine", [pytest.param("onnx", marks=needs_onnx), "torchscript"]
)
SIDECAR = """
[input]
container = "batch"
channels = "RGB"
scale = 0.00392156862745098
{given}
[semantic]
at = 0
batched = true
values = "{values}"
classes = {classes}
"""
NAMES = ["sky", "Cat", "person"]
FITS = {
    "stretch": ("size = [64, 96]", (64, 96)),
    "letterbox": ('size = [64, 64]\nfit = "letterbox"', (64, 64)),
    "corner": ('size = [64, 80]\nfit = "letterbox"\nimage_at = "corner"\nfill = 7', (64, 80)),
    "short_side": ("short_side = 48", (48, 64)),
}


class Colours(nn.Module):
    """Cells of 4 x 4 pixels: dark is class 0, red 1, blue 2, each surely."""

    def __init__(self, logits: bool) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(images, 4)
        red, blue = cells[:, 0:1], cells[:, 2:3]
        logits = 20 * torch.cat([0.5 - red - blue, red - 0.5, blue - 0.5], dim=1)
        return logits if self.logits else torch.softmax(logits, dim=1)


def sidecar(values: str = "logits", given: str = "", classes: Any = NAMES) -> str:
    names = str(classes).replace("'", '"')
    return SIDECAR.format(values=values, given=given, classes=names)


@both_engines
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("values", ["logits", "probabilities"])
def test_cells_come_back_from_wherever_the_image_was_put(
    exports: ModuleType, tmp_path: Path, engine: str, fit: str, values: str
) -> None:
    given, size = FITS[fit]
    path = exports.write(tmp_path, engine, Colours(values == "logits"), torch.rand(1, 3, *size))
    tutor = exports.load(path, sidecar(values, given), masks=True)
    parts = (np.s_[30:60, 20:80], (255, 0, 0)), (np.s_[66:96, 64:128], (0, 0, 255))
    (said,) = tutor.predict([exports.painted((96, 128), *parts)])
    assert isinstance(said, SemanticOutput)
    check_semantic(said, "x")
    assert said.probabilities.shape == (NUM_CLASSES, size[0] // 4, size[1] // 4)
    assert said.window is not None
    classes = spread(said.probabilities.transpose(1, 2, 0), said.window, 96, 128).argmax(axis=2)
    margin = 9  # a cell is up to 8 pixels of the image
    inside = (slice(30 + margin, 60 - margin), slice(20 + margin, 80 - margin))
    assert (classes[inside] == CLASS_IDS["cat"]).all()
    inside = (slice(66 + margin, 96), slice(64 + margin, 128))
    assert (classes[inside] == CLASS_IDS["person"]).all()
    assert (classes[:21] == 0).all()
    assert abs((classes == CLASS_IDS["cat"]).sum() - 1800) < 300
    assert abs((classes == CLASS_IDS["person"]).sum() - 1920) < 300


class Cells(nn.Module):
    """One of torchvision's segmentation networks, without enlarging what it says."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.classifier = model.backbone, model.classifier

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(image))
        return logits


@both_engines
def test_torchvisions_export_says_what_torchvisions_tutor_says(
    engine: str, tmp_path: Path, scenes: list[Scene]
) -> None:
    name = "lraspp_mobilenet_v3_large"
    torch.manual_seed(3)
    model = get_model(name, weights=None, weights_backbone=None).eval()
    weights = tmp_path / "own.pth"
    torch.save(model.state_dict(), weights)
    config = generation_config(inference__min_size=96, runtime__device="cpu")
    own = load_tutor(f"torchvision:{name}", "segmentation", weights, config)
    assert own is not None
    example, path = torch.rand(1, 3, 96, 128), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, and of the older exporter
        if engine == "onnx":
            torch.onnx.export(
                Cells(model), (example,), str(path), dynamo=False, opset_version=17, verbose=False,
                input_names=["image"], dynamic_axes={"image": {2: "height", 3: "width"}},
            )  # fmt: skip
        else:
            path = tmp_path / "model.pt"
            torch.jit.save(torch.jit.trace(Cells(model), example), str(path))
    given = "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\nshort_side = 96"
    names = own.description["class_names"]
    sidecar_path(path).write_text(sidecar(given=given, classes=names))
    tutor = load_tutor(str(path), "segmentation", "", generation_config(runtime__device="cpu"))
    assert tutor is not None
    assert list(tutor.description["class_names"].values()) == names
    for image in (scenes[0].image, np.ascontiguousarray(scenes[0].image[:80, :120])):
        (said,), (expected,) = tutor.predict([image]), own.predict([image])
        assert isinstance(said, SemanticOutput)
        assert isinstance(expected, SemanticOutput)
        np.testing.assert_allclose(said.probabilities, expected.probabilities, atol=1e-5)
        assert said.window is not None
        assert said.window.tolist() == [0, 0, *said.probabilities.shape[:0:-1]]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[kdcli.Devkit, Path]:
    """Drawn scenes, and the folder of a student that saw them for a moment."""
    folder = tmp_path_factory.mktemp("student")
    voc = kdcli.make_sample(folder / "voc", images=12, seed=5)
    config = kdcli.run_config("tiny", optim__steps=20, runtime__device="cpu", runtime__workers=0)
    kdcli.train(config, voc, None, folder / "run")
    export_onnx(folder / "run", folder / "student.onnx")
    return voc, folder


@needs_onnx
def test_a_student_is_a_dense_tutor(student: tuple[kdcli.Devkit, Path]) -> None:
    """Its ONNX file alone says what the student says, up to the resize of the photograph."""
    voc, folder = student
    config = generation_config(runtime__device="cpu")
    tutor = load_tutor(str(folder / "student.onnx"), "segmentation", "", config)
    assert tutor is not None
    pair = TutorPair(None, tutor, config)
    own = kdcli.load_student(folder / "run", device="cpu")
    same = []
    for image_id in voc.image_ids("Main/train"):
        image = voc.read_image(image_id)
        output, _ = pair.label(image, image_id)
        assert output.window is not None
        vectors = spread(output.label_vectors(), output.window, *image.shape[:2])
        first, second = np.sort(vectors, axis=2)[..., :-3:-1].transpose(2, 0, 1)
        sure = first - second > 0.2  # beyond what rounding and the resizes could turn
        expected = own.predict(image).class_map
        same.append((vectors.argmax(axis=2) == expected)[sure])
    assert np.concatenate(same).mean() > 0.97
    assert len(np.concatenate(same)) > 10_000


@needs_onnx
def test_a_student_teaches_the_next_both_tasks(
    student: tuple[kdcli.Devkit, Path], tmp_path: Path
) -> None:
    voc, folder = student
    store, spec = tmp_path / "taught.zarr", folder / "student.onnx"
    roles = ("--detection-tutor", spec, "--segmentation-tutor", spec, "--device", "cpu")
    for command in (
        ("generate-tutors", "--voc", voc.root, "--list", "Main/train", "--out", store, *roles),
        ("inspect-cache", store, "--voc", voc.root, "--verify-against-tutor", "2", *roles),
        ("evaluate-tutors", store, "--voc", voc.root, "--list", "Main/train"),
    ):
        result = CliRunner().invoke(main, list(map(str, command)))
        assert result.exit_code == 0, result.output
    cache = kdcli.TutorCache.open(store)
    assert cache.has_grids
    assert sum(len(cache[image_id].boxes) for image_id in cache.image_ids) > 0
    config = kdcli.run_config(
        "tiny", optim__steps=2, targets__detection__source="tutor",
        targets__segmentation__source="tutor", runtime__device="cpu",
    )  # fmt: skip
    summary = kdcli.train(config, voc, cache, tmp_path / "next")
    for task in ("detection_tutor/class", "segmentation_tutor"):
        assert 0 < summary.losses[f"loss/{task}"] < np.inf


@needs_onnx
def test_one_file_in_both_roles_answers_each_in_its_way(
    student: tuple[kdcli.Devkit, Path],
) -> None:
    voc, folder = student
    spec = str(folder / "student.onnx")
    config = generation_config(
        detection__tutor=spec, segmentation__tutor=spec, runtime__device="cpu"
    )
    pair = load_tutors(config)
    assert pair.detection is not None
    assert pair.segmentation is not None
    assert "semantic" not in pair.detection.description
    image = voc.read_image(voc.image_ids("Main/train")[0])
    assert isinstance(pair.detection.predict([image])[0], Instances)
    assert isinstance(pair.segmentation.predict([image])[0], SemanticOutput)


IMAGE = np.full((32, 48, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("values", "old", "new", "message"),
    [
        (
            "logits",
            '"logits"',
            '"probabilities"',
            r"expected .* probabilities at '0', got .* logit",
        ),
        ("probabilities", '"probabilities"', '"logits"', "got probabilities already, .*say values"),
        ("logits", ', "person"', "", r"expected .* 2 classes of every cell, .*got \(3, 8, 12\)"),
        ("logits", "batched = true", "", r"3 classes of every cell, .* got \(1, 3, 8, 12\)"),
        ("logits", "at = 0", 'at = "out"', "something at 'out', got "),
        ("logits", '"Cat", "person"', '"b", "c"', r"would label nothing.*\[semantic\] classes"),
        ("logits", "at = 0", "", r"\[semantic\] lacks 'at': expected a key or a position"),
        ("logits", "at = 0", "at = 0\nstride = 8", r"\[semantic\]: unknown key 'stride'"),
        (
            "logits",
            '"logits"',
            '"scores"',
            r"\[semantic\] values: expected one of probabilities, l",
        ),
    ],
)
def test_what_a_sidecar_gets_wrong_is_refused(
    exports: ModuleType, tmp_path: Path, values: str, old: str, new: str, message: str
) -> None:
    path = exports.write(tmp_path, "torchscript", Colours(values == "logits"), torch.rand(1))
    text = sidecar(values)
    exports.load(path, text, masks=True).predict([IMAGE])
    assert old in text
    sidecar_path(path).write_text(text.replace(old, new))
    with pytest.raises(TutorError, match=message):
        exports.load(path, masks=True).predict([IMAGE])


class Infinite(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::8, ::8] / 0


def test_what_it_cannot_be_is_refused(exports: ModuleType, tmp_path: Path) -> None:
    path = exports.write(tmp_path, "torchscript", Infinite(), torch.rand(1))
    with pytest.raises(TutorError, match=r"expected .* numbers at '0', got NaN or infinite"):
        exports.load(path, sidecar(), masks=True).predict([IMAGE])
    with pytest.raises(TutorError, match="gives a class for each pixel, no boxes: name it with"):
        exports.load(path)
    masks = '[output]\nboxes = 0\nlabels = 1\nconfidences = 2\nmasks = 3\nbox_frame = "input"\n'
    sidecar_path(path).write_text(f'{sidecar()}\n{masks}classes = ["cat"]\n')
    with pytest.raises(TutorError, match=r"\[semantic\]: \[output\] names masks, too: say one of"):
        exports.load(path, masks=True)
