"""ONNX files as tutors: real exports of torchvision's models and of our own students."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.ops import box_iou

import kdcli
from kdcli.cli import main
from kdcli.common.errors import TutorError
from kdcli.common.files import sha256_file
from kdcli.student.evaluation.onnx import export_onnx
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.classes import CLASSES
from kdcli.voc.scenes.dataset import Scene

needs_onnx = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)
WHOLE = """
[input]
container = "image"
channels = "RGB"
scale = 0.00392156862745098
[output]
boxes = "boxes"
labels = "labels"
confidences = "scores"
{masks}
box_frame = "input"
classes = {classes}
"""
CPU = generation_config(runtime__device="cpu")


@pytest.fixture(scope="module")
def mask_rcnn() -> MaskRCNN:
    """A Mask R-CNN of torchvision's that is small, and of VOC's classes."""
    torch.manual_seed(7)
    trunk = mobilenet_backbone(
        backbone_name="mobilenet_v3_small", weights=None, fpn=True, norm_layer=nn.BatchNorm2d
    )
    for _ in range(40):  # or its norms would leave nothing of what it sees
        trunk(torch.randn(4, 3, 96, 96))
    sizes = ((32, 64, 128),) * 3
    anchors = torchvision.models.detection.rpn.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
    model = MaskRCNN(
        trunk, len(CLASSES), min_size=96, rpn_anchor_generator=anchors, box_detections_per_img=20
    )
    for name, weight in model.named_parameters():
        if name.endswith("cls_score.weight"):
            nn.init.normal_(weight, std=0.5)  # or it would be unsure of everything
    return model.eval()


def exported(folder: Path, model: nn.Module, image: NDArray[np.uint8], **how: Any) -> Path:
    path = folder / "mask_rcnn.onnx"
    pixels = torchvision.transforms.functional.to_tensor(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's models go through the older exporter
        torch.onnx.export(
            model, ([pixels],), str(path), dynamo=False, opset_version=17,
            input_names=["image"], output_names=["boxes", "labels", "scores", "masks"],
            dynamic_axes={"image": {1: "height", 2: "width"}},
        )  # fmt: skip
    return path


def says(model: nn.Module, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    pixels = torchvision.transforms.functional.to_tensor(image)
    with torch.no_grad():
        return {key: value.numpy() for key, value in model([pixels])[0].items()}


@needs_onnx
def test_torchvisions_export_says_what_torchvision_says(
    mask_rcnn: MaskRCNN, tmp_path: Path, scenes: list[Scene]
) -> None:
    path = exported(tmp_path, mask_rcnn, scenes[0].image)
    sidecar = WHOLE.format(masks='masks = "masks"', classes=list(CLASSES))
    sidecar_path(path).write_text(sidecar)
    hard, soft, detector = (
        load_tutor(str(path), role, "", generation_config(label_vectors__masks=masks))
        for role, masks in (
            ("segmentation", "hard"),
            ("segmentation", "soft"),
            ("detection", "hard"),
        )
    )
    assert hard is not None
    assert soft is not None
    assert detector is not None
    for scene in scenes[:2]:  # of other sizes than the exporter saw
        expected = says(mask_rcnn, scene.image)
        (found,), (softly,), (boxes,) = (t.predict([scene.image]) for t in (hard, soft, detector))
        assert len(found) > 5
        assert found.dropped == {}
        np.testing.assert_array_equal(found.labels, expected["labels"])
        np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-4)
        np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.02)
        assert found.masks is not None
        assert softly.masks is not None
        assert (found.masks == (expected["masks"][:, 0] >= 0.5)).mean() > 0.999
        # Pasted in its own way by the exporter: whole pixels at the edges of boxes may differ.
        apart = np.abs(softly.masks - np.floor(expected["masks"][:, 0] * 255))
        assert (apart <= 1).mean() > 0.99
        np.testing.assert_array_equal(boxes.boxes, found.boxes)
        assert boxes.masks is None
    assert hard.description["kind"] == "onnx"
    assert hard.description["weights_sha256"] == sha256_file(path)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[kdcli.Devkit, Path]:
    """Drawn scenes, and the folder of a student that saw them for a moment."""
    folder = tmp_path_factory.mktemp("student")
    voc = kdcli.make_sample(folder / "voc", images=16, seed=3)
    config = kdcli.run_config("tiny", optim__steps=40, runtime__device="cpu", runtime__workers=0)
    kdcli.train(config, voc, None, folder / "run")
    export_onnx(folder / "run", folder / "student.onnx")
    return voc, folder


@needs_onnx
def test_a_student_is_a_tutor(student: tuple[kdcli.Devkit, Path]) -> None:
    """Its ONNX file alone says what the student says, up to the resize of the photograph."""
    voc, folder = student
    config = generation_config(
        detection__score_threshold=0.02,
        inference__detections_per_image=200,
        runtime__device="cpu",
    )
    tutor = load_tutor(str(folder / "student.onnx"), "detection", "", config)
    assert tutor is not None
    assert tutor.description["class_names"]["8"] == "cat"
    assert tutor.description["nms"] == 0.45
    own = kdcli.load_student(folder / "run", device="cpu")
    images = [voc.read_image(image_id) for image_id in voc.image_ids("Segmentation/val")]
    again = []
    for image, found in zip(images, tutor.predict(images), strict=True):
        expected = own.predict(image).detections
        for box, label, score in zip(expected.boxes, expected.labels, expected.scores, strict=True):
            if score < 0.1:
                continue
            overlaps = box_iou(torch.tensor(box)[None], torch.from_numpy(found.boxes))[0].numpy()
            near = (overlaps > 0.9) & (found.labels == label)
            again.append(np.abs(found.scores[near] - score).min(initial=1) < 0.03)
    assert len(again) > 50
    assert np.mean(again) > 0.95  # which of two that overlap stays may hang on a thousandth


@needs_onnx
def test_a_student_teaches_the_next(student: tuple[kdcli.Devkit, Path], tmp_path: Path) -> None:
    voc, folder = student
    store, spec = tmp_path / "taught.zarr", folder / "student.onnx"
    roles = ("--detection-tutor", spec, "--segmentation-tutor", "none")
    lists = ("--list", "Segmentation/train", "--device", "cpu")
    compare = ("--verify-against-tutor", "2", "--detection-tutor", spec, "--device", "cpu")
    commands = [
        ("generate-tutors", "--voc", voc.root, *lists, *roles, "--out", store),
        ("inspect-cache", store, "--voc", voc.root, *compare),
    ]
    for command in commands:
        result = CliRunner().invoke(main, list(map(str, command)))
        assert result.exit_code == 0, result.output
    config = kdcli.run_config(
        "tiny", optim__steps=2, targets__detection__source="tutor", runtime__device="cpu"
    )
    summary = kdcli.train(config, voc, kdcli.TutorCache.open(store), tmp_path / "next")
    assert 0 < summary.losses["loss/detection_tutor/class"] < np.inf


@needs_onnx
def test_what_a_file_says_itself_gives_way_to_a_sidecar(
    exports: ModuleType, student: tuple[kdcli.Devkit, Path], tmp_path: Path
) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes((student[1] / "student.onnx").read_bytes())
    image = student[0].read_image(student[0].image_ids("Segmentation/val")[0])
    names = ["background", *(f"no {name}" for name in CLASSES[1:-1]), "cat"]
    sidecar_path(path).write_text(
        '[input]\ncontainer = "batch"\nlayout = "HWC"\nchannels = "RGB"\nscale = 1\n'
        'size = [160, 160]\n[output]\nbatched = true\nboxes = "boxes"\nbox_frame = "relative"\n'
        f'class_confidences = "probabilities"\nnms = 0.45\nclasses = {json.dumps(names)}\n'
    )
    tutor = load_tutor(str(path), "detection", "", CPU)
    assert tutor is not None
    (found,) = tutor.predict([image])
    assert isinstance(found, Instances)
    assert set(found.labels.tolist()) == {8}
    with pytest.raises(TutorError, match="gives boxes only; a segmentation tutor needs masks"):
        load_tutor(str(path), "segmentation", "", CPU)
    text = sidecar_path(path).read_text()
    for old, new, message in (
        ("scale = 1", "scale = 0.5", "wants bytes: in .*, .input. scale is 1, without mean and st"),
        ("size = [160, 160]", "short_side = 90", r"failed on its input \(.*; is 'container' right"),
        ("size = [160, 160]", "size = [90, 90]", r"Got: 90 Expected: 160 .*'layout', 'size'\?"),
        ('"batch"', '"list"', "an ONNX file takes no list: it is 'batch' or 'image'"),
        (
            '"probabilities"',
            '"scores"',
            "something at 'scores', got a dictionary of 'boxes', 'prob",
        ),
        ('"background", ', "", r"confidences of \d+ boxes and 20 classes at 'probabilities', got"),
    ):
        sidecar_path(path).write_text(text.replace(old, new))
        with pytest.raises(TutorError, match=message):
            exports.load(path).predict([image])


class Two(nn.Module):
    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return image * scale


@needs_onnx
def test_files_that_are_no_such_tutor(exports: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("model = None\n")
    with pytest.raises(TutorError, match=r"model\.onnx is not a readable ONNX file: .*Protobuf"):
        load_tutor(str(path), "detection", "", CPU)
    with pytest.raises(
        TutorError, match=r"is an ONNX file, which holds its own weights; drop w\.pth"
    ):
        load_tutor(str(path), "detection", "w.pth", CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Two(), (torch.rand(1, 3, 8, 8), torch.rand(1)), str(path), dynamo=False,
                          input_names=["image", "scale"])  # fmt: skip
    with pytest.raises(
        TutorError, match=r"wants 2 inputs \(image, scale\); a tutor gives an image"
    ):
        load_tutor(str(path), "detection", "", CPU)
    exports.write(tmp_path, "onnx", exports.Bright(), torch.rand(1, 3, 8, 8))
    with pytest.raises(
        TutorError, match=r"needs a sidecar file .*model\.onnx\.toml does not exist"
    ):
        load_tutor(str(path), "detection", "", CPU)
    for changed, message in (
        ({"inference": {"min_size": 99}}, "is an ONNX file; set the size it wants as short_side"),
        ({"inference": {"amp": "bf16"}}, "is an ONNX file, which computes as exported; drop --amp"),
        (
            {"label_vectors": {"classes": "full"}},
            "is an ONNX file, .* no distribution over classes",
        ),
    ):
        with pytest.raises(TutorError, match=message):
            load_tutor(str(path), "segmentation", "", generation_config(None, changed))


def test_a_missing_onnx_runtime_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TutorError, match=r"needs the package onnxruntime: pip install 'kdcli\[onn"):
        load_tutor(str(path), "detection", "", CPU)


class Sixteen(nn.Module):
    """Its weights lie in a file of their own beside it; it wants 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((3, 40, 60), 0.5, dtype=torch.float16))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        score = (image * self.factor).mean()[None]
        return torch.tensor([[1.0, 2.0, 30.0, 20.0]]), torch.tensor([8]), score


@needs_onnx
def test_16_bits_and_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    """By PyTorch's newer exporter."""
    path = tmp_path / "model.onnx"
    example = torch.rand(3, 40, 60).half()
    torch.onnx.export(
        Sixteen().eval(), (example,), str(path), dynamo=True, verbose=False, external_data=True,
        output_names=["boxes", "labels", "scores"],
    )  # fmt: skip
    data = tmp_path / "model.onnx.data"
    assert data.is_file()
    sidecar_path(path).write_text(WHOLE.format(masks="", classes=list(CLASSES)))
    tutor = load_tutor(str(path), "detection", "", CPU)
    assert tutor is not None
    assert tutor.description["data_sha256"] == sha256_file(data)
    (found,) = tutor.predict([np.full((40, 60, 3), 255, np.uint8)])
    assert isinstance(found, Instances)
    assert found.scores.tolist() == [0.5]
    assert (found.labels.tolist(), found.scores.dtype) == ([8], np.float32)


@needs_onnx
def test_soft_masks_need_probabilities(exports: ModuleType, tmp_path: Path) -> None:
    class Marks(nn.Module):
        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
            box = torch.tensor([[2.0, 3.0, 20.0, 15.0]])
            return box, torch.tensor([8]), torch.tensor([0.75]), image[:1][None] > 0.5

    names = ["boxes", "labels", "scores", "masks"]
    path = exports.write(tmp_path, "onnx", Marks(), torch.rand(3, 24, 32), output_names=names)
    sidecar = WHOLE.format(masks='masks = "masks"', classes=list(CLASSES))
    image = exports.painted((24, 32), (np.s_[5:9, 10:20], (200, 0, 0)))
    (found,) = exports.load(path, sidecar, masks=True).predict([image])
    np.testing.assert_array_equal(found.masks, image[None, ..., 0] > 127)
    soft = exports.load(path, masks=True, form=LabelForm("soft"))
    with pytest.raises(TutorError, match="gives masks that are no probabilities"):
        soft.predict([image])
