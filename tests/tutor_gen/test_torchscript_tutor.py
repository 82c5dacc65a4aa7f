from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.config import generation_config
from kdcli.tutor_gen.detectron2.tutor import paste_masks
from kdcli.tutor_gen.exported.load import from_torchscript
from kdcli.tutor_gen.exported.tutor import ExportedTutor
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.voc.classes import CLASS_IDS

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
EXPORT = "faster_rcnn_fbnetv3a_coco_int8.torchscript.pt"


class Echo(nn.Module):
    """Two boxes, the second more confident; confidences tell what the input's channels held."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        channels, height, width = image.shape[-3], image.shape[-2], image.shape[-1]
        means = image.reshape(channels, height * width).mean(1)
        whole = torch.tensor([[0.0, 0.0, float(width), float(height)]])
        return {
            "boxes": torch.cat([whole, whole / 2]),
            "labels": torch.tensor([1, 0]),
            "scores": torch.stack([means[0], means[2]]),
        }


class ListEcho(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.echo = Echo()

    def forward(
        self, images: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
        return images, [self.echo(images[0])]


class Masks(nn.Module):
    """One box with a mask: probabilities of a side, or the whole image's."""

    def __init__(self, whole: bool, side: int = 4) -> None:
        super().__init__()
        self.whole = whole
        self.side = side

    def forward(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        masks = torch.arange(float(self.side**2)).reshape(1, 1, self.side, self.side)
        masks = masks / self.side**2
        if self.whole:
            masks = (image[:1] > 100).float()[None]
        box = torch.tensor([[2.0, 3.0, 20.0, 15.0]])
        return box, torch.tensor([0]), masks, torch.tensor([0.75])


class Marks(nn.Module):
    """One box with a mask of the whole image that is no probability."""

    def forward(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        box = torch.tensor([[2.0, 3.0, 20.0, 15.0]])
        return box, torch.tensor([0]), image[:1][None] > 0.5, torch.tensor([0.75])


class Fails(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.reshape(7, 7)


SIDECAR = """
[input]
container = "{container}"
channels = "{channels}"
scale = {scale}
short_side = {short_side}
long_side = {long_side}
[output]
path = {path}
boxes = {boxes}
labels = {labels}
confidences = {confidences}
{masks}
box_frame = "{box_frame}"
classes = ["cat", "person"]
"""
DEFAULTS = {
    "container": "image",
    "channels": "BGR",
    "scale": "0.00392156862745098",
    "short_side": "0",
    "long_side": "0",
    "path": "[]",
    "boxes": '"boxes"',
    "labels": '"labels"',
    "confidences": '"scores"',
    "masks": "",
    "box_frame": "input",
}
TUPLE = {"boxes": "0", "labels": "1", "confidences": "3", "masks": "masks = 2"}


def export(tmp_path: Path, module: nn.Module, **sidecar: str) -> Path:
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(path))
    sidecar_path(path).write_text(SIDECAR.format(**{**DEFAULTS, **sidecar}))
    return path


def tutor(path: Path, masks: bool = False) -> ExportedTutor:
    return from_torchscript(path, ModelSettings(masks=masks, device="cpu"))


def colour(height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Red 51, green 102, blue 204."""
    return np.tile(np.array([51, 102, 204], dtype=np.uint8), (height, width, 1))


@pytest.mark.parametrize(("channels", "first", "last"), [("BGR", 0.8, 0.2), ("RGB", 0.2, 0.8)])
def test_channels_scale_classes_and_order(
    tmp_path: Path, channels: str, first: float, last: float
) -> None:
    (found,) = tutor(export(tmp_path, Echo(), channels=channels)).predict([colour()])
    by_label = dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
    assert by_label[CLASS_IDS["person"]] == pytest.approx(first)
    assert by_label[CLASS_IDS["cat"]] == pytest.approx(last)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert (found.boxes.dtype, found.labels.dtype) == (np.float32, np.uint8)


def test_containers_and_paths(tmp_path: Path) -> None:
    for module, container, path in (
        (Echo(), "image", "[]"),
        (Echo(), "batch", "[]"),
        (ListEcho(), "list", "[1, 0]"),
    ):
        found = tutor(export(tmp_path, module, container=container, path=path)).predict([colour()])
        assert len(found[0]) == 2


def test_boxes_come_back_in_the_original_pixels_after_resizing(tmp_path: Path) -> None:
    path = export(tmp_path, Echo(), short_side="48", long_side="60")
    (found,) = tutor(path).predict([colour(24, 32)])
    whole = found.boxes[found.labels == CLASS_IDS["person"]]
    np.testing.assert_allclose(whole, [[0, 0, 32, 24]], rtol=1e-6)


def test_relative_boxes_are_scaled_to_the_image(tmp_path: Path) -> None:
    (found,) = tutor(export(tmp_path, Echo(), box_frame="relative")).predict([colour(3, 5)])
    assert found.boxes.max() == 25  # the echo's 5 pixels, taken for 5 image widths


def test_numbers_that_mean_nothing_are_dropped_and_counted(tmp_path: Path) -> None:
    path = export(tmp_path, Echo())
    sidecar = sidecar_path(path)
    sidecar.write_text(sidecar.read_text().replace('["cat", "person"]', '["cat"]'))
    (found,) = tutor(path).predict([colour()])
    assert found.labels.tolist() == [CLASS_IDS["cat"]]
    assert found.dropped == {"class": 1}


def test_whole_image_masks(tmp_path: Path) -> None:
    path = export(tmp_path, Masks(whole=True), channels="RGB", scale="1", **TUPLE)
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[5:9, 10:20] = 200
    (found,) = tutor(path, masks=True).predict([image])
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks[0], image[..., 0] > 100)


def test_masks_per_box_are_pasted_as_detectron2_does(tmp_path: Path) -> None:
    path = export(tmp_path, Masks(whole=False), **TUPLE)
    (found,) = tutor(path, masks=True).predict([colour()])
    box = np.array([[2, 3, 20, 15]], dtype=np.float32)
    expected = paste_masks(torch.arange(16.0).reshape(1, 4, 4) / 16, box, 24, 32)
    assert found.masks is not None
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(found.masks, expected)


def test_soft_masks_are_pasted_or_taken_as_they_are(tmp_path: Path) -> None:
    soft = LabelForm("soft")
    path = export(tmp_path, Masks(whole=False), **TUPLE)
    (found,) = from_torchscript(path, ModelSettings(masks=True, device="cpu", form=soft)).predict(
        [colour()]
    )
    box = np.array([[2, 3, 20, 15]], dtype=np.float32)
    expected = paste_masks(torch.arange(16.0).reshape(1, 4, 4) / 16, box, 24, 32, soft=True)
    assert found.masks is not None
    assert found.masks.dtype == np.uint8
    assert len(np.unique(expected)) > 50
    np.testing.assert_array_equal(found.masks, expected)
    whole = export(tmp_path, Masks(whole=True), channels="RGB", scale="1", **TUPLE)
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[5:9, 10:20] = 200
    (found,) = from_torchscript(whole, ModelSettings(masks=True, device="cpu", form=soft)).predict(
        [image]
    )
    np.testing.assert_array_equal(found.masks, np.where(image[None, ..., 0] > 100, 255, 0))


def test_forms_that_an_export_cannot_give_are_refused(tmp_path: Path) -> None:
    path = str(export(tmp_path, Marks(), **TUPLE))
    marks = load_tutor(
        path,
        "segmentation",
        config=generation_config(label_vectors=LabelForm("soft")),
    )
    assert marks is not None
    with pytest.raises(TutorError, match="masks that are no probabilities; generate without --lab"):
        marks.predict([colour()])
    full = LabelForm(classes="full")
    with pytest.raises(TutorError, match="no distribution over classes; generate without --label"):
        load_tutor(path, "segmentation", config=generation_config(label_vectors=full))
    assert load_tutor(path, "detection", config=generation_config(label_vectors=full)) is not None


def test_its_own_masks_are_kept_where_it_gives_28_x_28(tmp_path: Path) -> None:
    export(tmp_path, Masks(whole=False, side=28), **TUPLE)
    keeping = from_torchscript(
        tmp_path / "model.pt", ModelSettings(masks=True, device="cpu", keep_masks=True)
    )
    (found,) = keeping.predict([colour()])
    expected = np.arange(784, dtype=np.float32).reshape(1, 28, 28) / 784
    np.testing.assert_array_equal(found.mask_probabilities, expected)


@pytest.mark.parametrize(("whole", "size"), [(True, "24 x 32"), (False, "4 x 4")])
def test_masks_that_cannot_be_kept_are_refused(tmp_path: Path, whole: bool, size: str) -> None:
    path = str(export(tmp_path, Masks(whole=whole), **TUPLE))
    tutor = load_tutor(
        path, "segmentation", config=generation_config(segmentation__keep_masks=True)
    )
    assert tutor is not None
    with pytest.raises(TutorError, match=rf"model\.pt gives masks of {size}; --keep-masks"):
        tutor.predict([colour()])


def test_detectors_cannot_be_segmentation_tutors(tmp_path: Path) -> None:
    with pytest.raises(TutorError, match="gives boxes only"):
        tutor(export(tmp_path, Echo()), masks=True)


class Returns(nn.Module):
    """One box, its class number and confidence as they were given."""

    def __init__(self, box: list[float], number: torch.Tensor, confidence: torch.Tensor) -> None:
        super().__init__()
        self.box = torch.tensor([box])
        self.number = number
        self.confidence = confidence

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"boxes": self.box, "labels": self.number, "scores": self.confidence}


BOX, NUMBER, SURE = [2.0, 3.0, 20.0, 15.0], torch.tensor([1]), torch.tensor([0.9])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Returns([0.1, 0.1, 0.8, 0.6], NUMBER, SURE), 'first pixel, .* box_frame = "relative"'),
        (Returns(BOX, torch.tensor([0.9]), SURE), r"class numbers at 'labels', got 0\.9"),
        (
            Returns(BOX, NUMBER, torch.tensor([1])),
            r"confidences 0\.\.1 at 'scores', got numbers of",
        ),
        (Returns([*BOX, 30.0], NUMBER, SURE), r"boxes \(n, 4\).*got \(1, 5\)"),
    ],
)
def test_output_that_would_be_misread_is_refused(
    tmp_path: Path, module: nn.Module, message: str
) -> None:
    with pytest.raises(TutorError, match=message):
        tutor(export(tmp_path, module)).predict([colour()])


def test_whole_numbers_may_be_floats_and_a_doubtful_box_small(tmp_path: Path) -> None:
    (found,) = tutor(export(tmp_path, Returns(BOX, torch.tensor([1.0]), SURE))).predict([colour()])
    assert found.labels.tolist() == [CLASS_IDS["person"]]
    coarse = Returns(BOX, NUMBER, SURE.bfloat16())
    (found,) = tutor(export(tmp_path, coarse)).predict([colour()])
    assert found.scores.tolist() == pytest.approx([0.9], abs=0.01)
    doubtful = Returns([0.1, 0.1, 0.8, 0.6], NUMBER, SURE / 10)
    assert len(tutor(export(tmp_path, doubtful)).predict([colour()])[0]) == 1


def test_names_match_in_any_spelling_and_none_at_all_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path, Echo())
    sidecar = sidecar_path(path)
    text = sidecar.read_text()
    sidecar.write_text(text.replace('["cat", "person"]', '["Cat", "PERSON"]'))
    (found,) = tutor(path).predict([colour()])
    assert sorted(found.labels.tolist()) == [CLASS_IDS["cat"], CLASS_IDS["person"]]
    assert tutor(path).description["taken_for"] == {"Cat": "cat", "PERSON": "person"}
    sidecar.write_text(text.replace('["cat", "person"]', '["chat", "personne"]'))
    with pytest.raises(TutorError, match=r"would label nothing: .*'personne'.*\[output\] classes"):
        tutor(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": '"box"'}, "expected the output to have something at 'box', got a dictionary of"),
        ({"path": "[3]"}, r"something at 3, got a dictionary"),
        ({"boxes": '"labels"'}, r"'labels' of 2 dimensions, got \(2,\)"),
        ({"labels": '"boxes"'}, r"'boxes' of 1 dimensions, got \(2, 4\)"),
    ],
)
def test_output_that_contradicts_the_sidecar_is_refused(
    tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    path = export(tmp_path, Echo(), **changed)
    with pytest.raises(TutorError, match=message) as error:
        tutor(path).predict([colour()])
    assert str(path) in str(error.value)


def test_lengths_have_to_agree(tmp_path: Path) -> None:
    path = export(tmp_path, Masks(whole=False), **{**TUPLE, "boxes": "2", "labels": "1"})
    with pytest.raises(TutorError, match="'2' of 2 dimensions"):
        tutor(path).predict([colour()])


def test_failures_inside_the_export_are_reported(tmp_path: Path) -> None:
    path = export(tmp_path, Fails())
    with pytest.raises(TutorError, match=r"model\.pt failed on its input \(.*; is 'container'"):
        tutor(path).predict([colour()])


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = export(tmp_path, Echo())
    path.write_bytes(b"no TorchScript")
    with pytest.raises(TutorError, match="is not a readable TorchScript file"):
        tutor(path)


def test_the_description_tells_two_exports_apart(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = tutor(export(tmp_path, Echo())).description
    assert first == tutor(tmp_path / "model.pt").description
    assert first != tutor(export(tmp_path / "other", Echo(), channels="RGB")).description


@pytest.fixture
def real_export(tmp_path: Path) -> Path:
    source = SHARED / "weights" / EXPORT
    if not source.is_file():
        pytest.skip(f"needs ../shared/weights/{EXPORT}")
    (tmp_path / EXPORT).symlink_to(source)
    docs = Path(__file__).resolve().parents[2] / "docs"
    shutil.copy(docs / f"{EXPORT}.toml", tmp_path)
    return tmp_path / EXPORT


def test_a_real_detector_finds_what_the_photographs_show(
    real_export: Path, photographs: list[NDArray[np.uint8]]
) -> None:
    real = load_tutor(str(real_export), "detection")
    assert real is not None
    found = real.predict(photographs)
    assert all(len(one) and one.scores[0] > 0.5 for one in found)
    for image, one in zip(photographs, found, strict=True):
        limits = np.array([image.shape[1], image.shape[0]] * 2)
        assert (one.boxes >= -0.5).all()
        assert (one.boxes <= limits + 0.5).all()
    with pytest.raises(TutorError, match="set the size it wants as short_side"):
        load_tutor(
            str(real_export),
            "detection",
            config=generation_config(inference__min_size=300),
        )
    with pytest.raises(TutorError, match="holds its own weights"):
        load_tutor(str(real_export), "detection", weights=real_export)
