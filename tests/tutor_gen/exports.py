"""Small networks that find what is bright, exported for real, and their sidecars."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcli.tutor_gen.exported.load import from_onnx, from_torchscript
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.sidecar import sidecar_path
from kdcli.tutor_gen.tutors.tutor import Tutor

CLASSES = ["zebra", "Cat", "person"]


def write(folder: Path, engine: str, module: nn.Module, example: torch.Tensor, **how: Any) -> Path:
    """Export a module that takes one tensor; ``how`` is for PyTorch's exporter to ONNX."""
    path = folder / ("model.onnx" if engine == "onnx" else "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, and of the older exporter
        if engine == "torchscript":
            torch.jit.save(torch.jit.script(module), str(path))
        else:
            given = {"input_names": ["image"], "dynamo": False, "opset_version": 17, **how}
            torch.onnx.export(module.eval(), (example,), str(path), verbose=False, **given)
    return path


def load(path: Path, sidecar: str = "", **settings: Any) -> Tutor:
    if sidecar:
        sidecar_path(path).write_text(sidecar)
    given = {"device": "cpu", "score_threshold": 0.01, **settings}
    door = from_onnx if path.suffix == ".onnx" else from_torchscript
    return door(path, ModelSettings(**given))


class Bright(nn.Module):
    """The box around what is bright, of class 1, sure of its mean.

    Args:
        box_format: of the box.
        relative: whether it is divided by the sides.
        last: whether the channels come last.
    """

    def __init__(self, box_format: str = "xyxy", relative: bool = False, last: bool = False):
        super().__init__()
        self.box_format = box_format
        self.relative = relative
        self.last = last

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = images[0].float()
        if self.last:
            image = image.permute(2, 0, 1)
        bright = (image.mean(0) > 0.7).float()
        height, width = bright.shape[0], bright.shape[1]
        rows, columns = bright.amax(1), bright.amax(0)
        y, x = torch.arange(height).float(), torch.arange(width).float()
        x1 = (x + (1 - columns) * 1e4).amin()
        y1 = (y + (1 - rows) * 1e4).amin()
        x2 = ((x + 1) * columns).amax()
        y2 = ((y + 1) * rows).amax()
        if self.relative:
            x1, x2, y1, y2 = x1 / width, x2 / width, y1 / height, y2 / height
        if self.box_format == "xywh":
            x2, y2 = x2 - x1, y2 - y1
        if self.box_format == "cxcywh":
            x1, y1, x2, y2 = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        box = torch.stack([x1, y1, x2, y2])[None]
        score = (image.mean(0) * bright).sum() / bright.sum()
        return box, torch.ones(1).long(), score.clamp(0, 1)[None]


class Heads(nn.Module):
    """A network as YOLO's are: a cell for each 8 x 8 pixels, everything in one table (1, 4 + 3 + 2,
    n), boxes as centre and size, confidences of 3 classes, and two prototypes at a quarter of the
    resolution: what is red, and what is blue. Red is a cat, blue a person."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = nn.functional.avg_pool2d(images, 8)
        rows, columns = cells.shape[2], cells.shape[3]
        y = (torch.arange(rows).float()[:, None].expand(rows, columns) + 0.5) * 8
        x = (torch.arange(columns).float()[None].expand(rows, columns) + 0.5) * 8
        side = torch.full((rows, columns), 24.0)
        red, blue = cells[0, 0], cells[0, 2]
        nothing = torch.zeros_like(red)
        is_red, is_blue = (red > blue).float(), (blue > red).float()
        table = torch.stack(
            [x, y, side, side, nothing, red * is_red, blue * is_blue, is_red, is_blue]
        )
        quarter = nn.functional.avg_pool2d(images, 4)[0]
        prototypes = torch.stack([quarter[0], quarter[2]]) * 20 - 10
        return table.reshape(1, 9, rows * columns), prototypes[None]


HEADS = """
[input]
container = "batch"
channels = "RGB"
scale = 0.00392156862745098
size = [64, 96]
fit = "letterbox"
fill = 0
[output]
batched = true
columns_first = true
boxes = { at = 0, columns = [0, 4] }
box_format = "cxcywh"
box_frame = "input"
clip = true
class_confidences = { at = 0, columns = [4, 7] }
coefficients = { at = 0, columns = [7, 9] }
prototypes = 1
nms = 0.2
classes = ["zebra", "Cat", "person"]
"""


def painted(size: tuple[int, int], *parts: tuple[tuple[slice, slice], tuple[int, ...]]) -> Any:
    """A black image with rectangles, each of a colour."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    for window, colour in parts:
        image[window] = colour
    return image
