"""What a sidecar may say of an export, whichever engine runs it: real exports of small networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.fitted import Fitted
from kdcli.tutor_gen.tutors.checks import check_instances
from kdcli.tutor_gen.tutors.label_form import LabelForm
from kdcli.voc.classes import CLASS_IDS

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
ENGINES = [
    pytest.param("onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")),
    "torchscript",
]
both_engines = pytest.mark.parametrize("engine", ENGINES)

SIDECAR = """
[input]
container = "batch"
channels = "RGB"
scale = 0.00392156862745098
{given}
[output]
boxes = 0
labels = 1
confidences = 2
box_frame = "{frame}"
{more}
classes = ["zebra", "Cat", "person"]
"""
FITS = {
    "stretch": ("size = [60, 90]", (60, 90)),
    "letterbox": ('size = [64, 64]\nfit = "letterbox"', (64, 64)),
    "corner": ('size = [64, 80]\nfit = "letterbox"\nimage_at = "corner"\nfill = 7', (64, 80)),
    "short_side": ("short_side = 48", (48, 64)),
}


@both_engines
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("box_format", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("frame", ["input", "relative"])
def test_boxes_come_back_from_wherever_the_image_was_put(
    exports: ModuleType, tmp_path: Path, engine: str, fit: str, box_format: str, frame: str
) -> None:
    given, size = FITS[fit]
    module = exports.Bright(box_format, frame == "relative")
    path = exports.write(tmp_path, engine, module, torch.rand(1, 3, *size))
    more = f'box_format = "{box_format}"'
    tutor = exports.load(path, SIDECAR.format(given=given, frame=frame, more=more))
    image = exports.painted((120, 160), (np.s_[30:90, 40:120], (255, 255, 255)))
    (found,) = tutor.predict([image])
    assert found.labels.tolist() == [CLASS_IDS["cat"]]
    np.testing.assert_allclose(found.boxes, [[40, 30, 120, 90]], atol=2.6)  # a pixel of the input
    assert 0.9 < found.scores[0] <= 1


@pytest.mark.parametrize(
    ("size", "corners"),
    [((50, 100), (16, 0, 48, 64)), ((100, 50), (0, 16, 64, 48)), ((33, 34), (1, 0, 63, 64))],
)
def test_a_letterbox_keeps_the_shape(size: tuple[int, int], corners: tuple[int, ...]) -> None:
    way = Fitted(size=(64, 64), keeps_shape=True, fill=9)
    prepared = way(np.full((*size, 3), 200, np.uint8))
    top, left, bottom, right = corners
    expected = np.full((64, 64, 3), 9, np.uint8)
    expected[top:bottom, left:right] = 200
    np.testing.assert_array_equal(prepared.pixels.numpy(), expected)
    assert (prepared.height, prepared.width) == size
    assert way.padded_shape(*size) == (64, 64)
    with pytest.raises(TutorError, match="900 x 2 pixels become 64 x 0 for the tutor: too narrow"):
        way(np.zeros((2, 900, 3), np.uint8))


def test_a_stretched_image_is_pillows() -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    stretched = Fitted(size=(30, 70), bgr=True)(image).pixels.numpy()
    expected = Image.fromarray(image).resize((70, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(stretched[..., ::-1], np.asarray(expected))


@both_engines
@pytest.mark.parametrize("layout", ["CHW", "HWC"])
def test_layout_mean_and_deviation(
    exports: ModuleType, tmp_path: Path, engine: str, layout: str
) -> None:
    """(v / 255 - mean) / std of white is .75 in the mean of the channels."""
    last = layout == "HWC"
    example = torch.rand(1, 20, 30, 3) if last else torch.rand(1, 3, 20, 30)
    path = exports.write(tmp_path, engine, exports.Bright(last=last), example)
    given = f'layout = "{layout}"\nmean = [0.1, 0.2, 0.3]\nstd = [1, 1, 1.12]'
    sidecar = SIDECAR.format(given=given, frame="input", more="").replace("RGB", "BGR")
    image = exports.painted((20, 30), (np.s_[5:10, 6:20], (255, 255, 255)))
    (found,) = exports.load(path, sidecar).predict([image])
    np.testing.assert_allclose(found.boxes, [[6, 5, 20, 10]], atol=1e-5)
    assert found.scores[0] == pytest.approx((0.9 + 0.8 + 0.7 / 1.12) / 3)


TWO = [
    (np.s_[20:56, 24:64], (255, 0, 0)),
    (np.s_[70:110, 100:150], (0, 0, 230)),
]


@both_engines
@pytest.mark.parametrize("soft", [False, True])
def test_a_table_of_all_classes_with_prototypes(
    exports: ModuleType, tmp_path: Path, engine: str, soft: bool
) -> None:
    path = exports.write(tmp_path, engine, exports.Heads(), torch.rand(1, 3, 64, 96))
    form = LabelForm("soft" if soft else "hard")
    sidecar = exports.HEADS.replace("nms = 0.2", "nms = 1.0")  # boxes all over the rectangles
    tutor = exports.load(path, sidecar, masks=True, form=form, score_threshold=0.5)
    image = exports.painted((120, 170), *TWO)
    (found,) = tutor.predict([image])
    check_instances(found, "one", 120, 170)
    assert set(found.labels.tolist()) == {CLASS_IDS["cat"], CLASS_IDS["person"]}
    assert (found.scores >= 0.5).all()
    assert found.masks is not None
    assert found.masks.dtype == (np.uint8 if soft else np.bool_)
    marks = found.masks > 127 if soft else found.masks
    for label, (window, _) in zip(("cat", "person"), TWO, strict=True):
        own = marks[found.labels == CLASS_IDS[label]].any(axis=0)
        meant = np.zeros((120, 170), bool)
        meant[window] = True
        assert (own & meant).sum() / (own | meant).sum() > 0.9
    if soft:
        assert len(np.unique(found.masks)) > 20  # the edges are ramps


@both_engines
def test_of_boxes_that_overlap_the_best_is_kept(
    exports: ModuleType, tmp_path: Path, engine: str
) -> None:
    path = exports.write(tmp_path, engine, exports.Heads(), torch.rand(1, 3, 64, 96))
    image = exports.painted((64, 96), *TWO)
    every, few, none_of_it = (
        exports.load(path, exports.HEADS.replace("nms = 0.2", nms), score_threshold=0.3)
        for nms in ("", "nms = 0.2", "nms = 1.0")
    )
    (all_of_them,), (found,), (unmoved,) = (t.predict([image]) for t in (every, few, none_of_it))
    assert len(found) < len(all_of_them) == len(unmoved)
    for label in set(found.labels.tolist()):
        boxes = torch.from_numpy(found.boxes[found.labels == label])
        from torchvision.ops import box_iou

        overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
        assert overlaps.max() <= 0.5  # of the clipped ones; as regressed no more than .2
        same = all_of_them.labels == label
        assert found.scores[found.labels == label].max() == all_of_them.scores[same].max()
    one = exports.load(path, exports.HEADS, detections_per_image=1, score_threshold=0.3)
    (best,) = one.predict([image])
    assert best.scores.tolist() == [all_of_them.scores.max()]
    assert one.description["detections_per_image"] == 1
    assert one.description["nms"] == 0.2


@both_engines
def test_objectness_is_a_factor(exports: ModuleType, tmp_path: Path, engine: str) -> None:
    path = exports.write(tmp_path, engine, exports.Heads(), torch.rand(1, 3, 64, 96))
    plain = exports.load(path, exports.HEADS, score_threshold=0.3)
    more = "objectness = { at = 0, column = 5 }\nnms = 0.2"
    squared = exports.load(path, exports.HEADS.replace("nms = 0.2", more), score_threshold=0.3)
    image = exports.painted((64, 96), *TWO)
    (found,), (again,) = plain.predict([image]), squared.predict([image])
    cats = found.scores[found.labels == CLASS_IDS["cat"]]
    expected = [score**2 for score in cats.tolist() if score**2 >= 0.3]
    np.testing.assert_allclose(again.scores, expected, rtol=1e-6)
    assert len(expected) > 0
    assert squared.description != plain.description


class Says(nn.Module):
    """The same table as that of `Heads`, whatever the image."""

    def __init__(self, rows: list[list[float]], prototypes: int = 2) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows).T[None])
        self.prototypes = nn.Parameter(torch.zeros(1, prototypes, 4, 4))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = images.mean() * 0
        return self.table + nothing, self.prototypes + nothing


ROW = [40.0, 30.0, 20.0, 20.0, 0.0, 0.9, 0.0, 1.0, 0.0]
NAN = float("nan")


def changed(**at: float) -> list[list[float]]:
    row = list(ROW)
    for name, value in at.items():
        row[int(name[1:])] = value
    return [ROW, row]


@both_engines
@pytest.mark.parametrize(
    ("module", "old", "new", "message"),
    [
        (Says(changed(_5=NAN)), "", "", r"confidences 0\.\.1 at '0', columns 4 to 6, got nan to"),
        (Says(changed(_5=3.5)), "", "", r"got 0 to 3\.5; let the export apply its sigmoid"),
        (Says(changed(_4=-2.0)), "", "", r"got -2 to 0\.9; let the export"),
        (Says(changed(_0=NAN)), "", "", r"boxes at '0', columns 0 to 3, got NaN or infinite"),
        (Says([ROW], prototypes=3), "", "", r"prototypes \(k, h, w\) and coefficients \(1, k\), g"),
        (Says([ROW]), "[4, 7]", "[4, 8]", r"confidences of 1 boxes and 3 classes at .*got"),
        (Says([ROW]), "[0, 4]", "[0, 5]", r"boxes \(n, 4\), .*got \(1, 5\)"),
        (Says([ROW]), "[7, 9]", "[7, 11]", r"'0', columns 7 to 10, got a tensor of \(9, 1\)"),
        (Says([ROW]), "columns_first = true", "", r"'0', columns 0 to 3, got a tensor of \(9, 1\)"),
        (Says([ROW]), "batched = true", "", r"'0', columns 0 to 3, got a tensor of \(1, 9, 1\)"),
        (Says([ROW]), "prototypes = 1", "prototypes = 7", r"something at 7, got a"),
    ],
)  # fmt: skip
def test_tables_that_contradict_the_sidecar_are_refused(
    exports: ModuleType, tmp_path: Path, engine: str, module: nn.Module, old: str, new: str,
    message: str,
) -> None:  # fmt: skip
    path = exports.write(tmp_path, engine, module, torch.rand(1, 3, 64, 96))
    tutor = exports.load(path, exports.HEADS.replace(old, new, 1), masks=True)
    with pytest.raises(TutorError, match=message) as error:
        tutor.predict([exports.painted((64, 96))])
    assert str(path) in str(error.value)


def test_a_wide_box_is_cut_only_where_the_sidecar_says_so(
    exports: ModuleType, tmp_path: Path
) -> None:
    path = exports.write(
        tmp_path, "torchscript", Says(changed(_2=90.0)[1:]), torch.rand(1, 3, 64, 96)
    )
    image = exports.painted((64, 96))
    (cut,) = exports.load(path, exports.HEADS).predict([image])
    assert cut.boxes.min() == 0
    check_instances(cut, "one", 64, 96)
    (whole,) = exports.load(path, exports.HEADS.replace("clip = true", "")).predict([image])
    with pytest.raises(TutorError, match="expected boxes within 96 x 64 pixels"):
        check_instances(whole, "one", 64, 96)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("size = [64, 96]", "", r"\[input\]: a letterbox wants its size = \[height, width\]"),
        ("size = [64, 96]", "size = [64]", r"\[input\] size: expected 2 numbers, got \[64\]"),
        ("fill = 0", "short_side = 9", r"\[input\]: size = \[height, width\] stands alone"),
        ("fill = 0", "std = [1, 0, 1]", r"\[input\]: std is what is divided by"),
        ("fill = 0", "mean = [1, 2]", r"\[input\] mean: expected 3 numbers"),
        ("prototypes = 1", "", r"\[output\]: prototypes and coefficients belong together"),
        ("prototypes = 1", "prototypes = 1\nmasks = 3", r"\[output\]: masks are there, or proto"),
        ("nms = 0.2", "nms = 50", r"\[output\] nms: expected an IoU above 0, up to 1, got 50"),
        ("batched = true", "batched = 1", r"\[output\] batched: expected true or false, got 1"),
        ("columns = [0, 4]", "columns = [4, 0]", r"\[output\] boxes: expected a key or a position"),
        ("columns = [0, 4]", "column = -1", r"\[output\] boxes: expected a key or a position"),
        ("at = 0, columns = [0, 4]", "columns = [0, 4]", r"\[output\] boxes: expected a key or a"),
        ("nms = 0.2", "labels = 3", r"\[output\]: unknown key 'labels'"),
    ],
)
def test_mistakes_of_the_sidecar_are_named(
    exports: ModuleType, tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "model.pt"
    path.touch()
    with pytest.raises(TutorError, match=rf"model\.pt\.toml: {message}"):
        exports.load(path, exports.HEADS.replace(old, new, 1))


def test_what_decides_is_in_the_description(exports: ModuleType, tmp_path: Path) -> None:
    path = exports.write(tmp_path, "torchscript", exports.Heads(), torch.rand(1, 3, 64, 96))
    described: list[Any] = []
    for old, new in (
        ("", ""),
        ("fill = 0", ""),
        ("fill = 0", 'fill = 0\nimage_at = "corner"'),
        ("fill = 0", "fill = 0\nmean = [1, 2, 3]"),
        ("nms = 0.2", "nms = 0.3"),
        ("clip = true", ""),
        ('"cxcywh"', '"xywh"'),
        ("size = [64, 96]", "size = [64, 64]"),
    ):
        description = exports.load(path, exports.HEADS.replace(old, new, 1)).description
        assert description not in described
        described.append(description)
