"""Masks of exports: over the input or over their boxes, brought to the photograph's size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.detectron2.tutor import paste_masks
from kdcli.tutor_gen.exported.load import from_torchscript
from kdcli.tutor_gen.exported.masks import flat_masks, mask_frame
from kdcli.tutor_gen.exported.tutor import ExportedTutor
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.sidecar import sidecar_path

SIDECAR = """
[input]
container = "image"
channels = "RGB"
scale = 1
short_side = {short_side}
[output]
boxes = 0
labels = 1
confidences = 2
masks = 3
box_frame = "input"
classes = ["zebra", "Cat"]
{more}
"""


class Half(nn.Module):
    """A box over the middle of the input; its mask is the left half of it.

    The mask covers the input (side 0), or the box with that side.
    """

    def __init__(self, side: int = 0, marks: bool = False, value: float = 1.0) -> None:
        super().__init__()
        self.side = side
        self.marks = marks
        self.value = value

    def forward(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        h, w = image.shape[-2], image.shape[-1]
        box = torch.tensor([[w / 4.0, h / 4.0, 3 * w / 4.0, 3 * h / 4.0]])
        if self.side > 0:
            masks = torch.zeros((1, 1, self.side, self.side))
            masks[0, 0, :, : self.side // 2] = self.value
        else:
            masks = torch.zeros((1, 1, h, w))
            masks[0, 0, h // 4 : 3 * h // 4, w // 4 : w // 2] = self.value
        if self.marks:
            masks = masks > 0.5
        return box, torch.tensor([1]), torch.tensor([0.9]), masks


def tutor(
    folder: Path, module: nn.Module, short_side: int = 0, more: str = "", **how: Any
) -> ExportedTutor:
    path = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), str(path))
    sidecar_path(path).write_text(SIDECAR.format(short_side=short_side, more=more))
    return from_torchscript(path, ModelSettings(masks=True, device="cpu", **how))


def image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 100, dtype=np.uint8)


def left_half(height: int, width: int) -> np.ndarray:
    """What `Half` means, in an image of this size."""
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4 : 3 * height // 4, width // 4 : width // 2] = True
    return mask


def overlap(found: np.ndarray, meant: np.ndarray) -> float:
    return float((found & meant).sum() / (found | meant).sum())


@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.parametrize("size", [(480, 480), (240, 360), (600, 480), (960, 960)])
@pytest.mark.parametrize("short_side", [240, 480])
def test_masks_of_the_input_are_resized_to_the_photograph(
    tmp_path: Path, size: tuple[int, int], short_side: int, marks: bool
) -> None:
    (found,) = tutor(tmp_path, Half(marks=marks), short_side).predict([image(*size)])
    assert found.masks is not None
    assert (found.masks.shape, found.masks.dtype) == ((1, *size), np.bool_)
    assert overlap(found.masks[0], left_half(*size)) > 0.99


def test_soft_masks_of_the_input_are_resized_as_probabilities(tmp_path: Path) -> None:
    soft = LabelForm("soft")
    (found,) = tutor(tmp_path, Half(value=0.75), 240, form=soft).predict([image(480, 720)])
    assert found.masks is not None
    assert found.masks.dtype == np.uint8
    inside = left_half(480, 720)
    assert found.masks[0].max() == 191  # floor(.75 * 255)
    assert np.median(found.masks[0][inside]) == 191
    assert overlap(found.masks[0] > 95, inside) > 0.99
    assert len(np.unique(found.masks)) > 2  # the edge is a ramp
    marks = tutor(tmp_path, Half(marks=True), 240, form=soft)
    with pytest.raises(TutorError, match="no probabilities; generate without --label-masks soft"):
        marks.predict([image(480, 720)])


@pytest.mark.parametrize("side", [28, 56])
def test_masks_over_boxes_are_pasted_whatever_the_input(tmp_path: Path, side: int) -> None:
    (found,) = tutor(tmp_path, Half(side), 100).predict([image(300, 300)])
    own = torch.zeros(1, side, side)
    own[..., : side // 2] = 1
    expected = paste_masks(own, np.array([[75, 75, 225, 225]], np.float32), 300, 300)
    np.testing.assert_array_equal(found.masks, expected)
    assert overlap(expected[0] > 0, left_half(300, 300)) > 0.95


def test_what_could_be_either_is_refused_until_the_sidecar_says_it(tmp_path: Path) -> None:
    square = [image(112, 112)]
    with pytest.raises(TutorError, match=r'model\.pt\.toml: mask_frame = "input" or "box"'):
        tutor(tmp_path, Half(28), 28).predict(square)
    (over_box,) = tutor(tmp_path, Half(28), 28, 'mask_frame = "box"').predict(square)
    (over_input,) = tutor(tmp_path, Half(), 28, 'mask_frame = "input"').predict(square)
    for found in (over_box, over_input):
        assert found.masks is not None
        assert overlap(found.masks[0].astype(bool), left_half(112, 112)) > 0.9


def test_the_first_image_that_tells_settles_it_for_the_others(tmp_path: Path) -> None:
    trainer = tutor(tmp_path, Half(), 28)
    trainer.predict([image(112, 140)])
    (found,) = trainer.predict([image(112, 112)])
    assert found.masks is not None
    assert overlap(found.masks[0].astype(bool), left_half(112, 112)) > 0.9


@pytest.mark.parametrize(
    ("side", "size", "more", "message"),
    [
        (28, (60, 80), 'mask_frame = "input"', "masks of the input's size, got 28 x 28 for an inp"),
        (0, (60, 80), 'mask_frame = "box"', "squares over the boxes, got 60 x 80 for an input of"),
        (300, (60, 80), "", "input's size, or small squares over the boxes, got 300 x 300"),
    ],
)
def test_masks_that_contradict_the_sidecar_are_refused(
    tmp_path: Path, side: int, size: tuple[int, int], more: str, message: str
) -> None:
    with pytest.raises(TutorError, match=message):
        tutor(tmp_path, Half(side), 0, more).predict([image(*size)])


def test_only_masks_over_boxes_are_kept(tmp_path: Path) -> None:
    """Even where those of the input have 28 x 28 pixels."""
    keeping = tutor(tmp_path, Half(28), 100, keep_masks=True)
    (found,) = keeping.predict([image(300, 300)])
    assert found.mask_probabilities is not None
    assert found.mask_probabilities.shape == (1, 28, 28)
    with pytest.raises(TutorError, match="each over its box"):
        tutor(tmp_path, Half(), 28, 'mask_frame = "input"', keep_masks=True).predict(
            [image(112, 112)]
        )


def test_the_stated_frame_is_provenance(tmp_path: Path) -> None:
    unsaid = tutor(tmp_path, Half(), 28).description
    assert "mask_frame" not in unsaid
    stated = tutor(tmp_path, Half(), 28, 'mask_frame = "box"').description
    assert stated == {**unsaid, "mask_frame": "box"}
    with pytest.raises(TutorError, match=r"\[output\] mask_frame: expected one of input, box, got"):
        tutor(tmp_path, Half(), 28, 'mask_frame = "image"')


@pytest.mark.parametrize("value", [-3.0, 1.5, 255.0, float("nan")])
def test_logits_and_bytes_are_no_masks(tmp_path: Path, value: float) -> None:
    with pytest.raises(TutorError, match=r"expected masks of probabilities 0\.\.1, or of 0 and 1"):
        tutor(tmp_path, Half(28, value=value), 100).predict([image(100, 130)])


def test_one_mask_a_box_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for shape in ((2, 80, 28, 28), (3, 28, 28), (2, 28), (1, 2, 28, 28)):
        with pytest.raises(TutorError, match=r"model\.pt: by its sidecar, expected 2 masks of"):
            flat_masks(path, torch.zeros(shape), 2)
    assert flat_masks(path, torch.zeros(2, 1, 28, 28), 2).shape == (2, 28, 28)
    for shape in ((0, 80, 28, 28), (0, 1, 28, 28), (0,), (5, 1, 28, 28)):
        nothing = flat_masks(path, torch.zeros(shape), 0)
        assert len(nothing) == 0
        assert mask_frame(path, nothing, (28, 28), None) is None


class Finds(nn.Module):
    """Nothing in a dark image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Half()

    def forward(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        boxes, labels, scores, masks = self.inner(image)
        n = 1 if bool(image.max() > 50) else 0
        return boxes[:n], labels[:n], scores[:n], masks[:n]


@pytest.mark.parametrize("form", [LabelForm(), LabelForm("soft")])
def test_images_without_objects_have_no_masks(tmp_path: Path, form: LabelForm) -> None:
    finds = tutor(tmp_path, Finds(), 28, form=form)
    (nothing,) = finds.predict([np.zeros((56, 56, 3), dtype=np.uint8)])
    assert nothing.masks is not None
    assert nothing.masks.shape == (0, 56, 56)
    assert nothing.masks.dtype == (np.uint8 if form.masks == "soft" else np.bool_)
