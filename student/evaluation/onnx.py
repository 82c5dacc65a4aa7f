"""A trained student as an ONNX file, for programs without PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.common.errors import StudentError
from kdcli.common.files import atomic_file
from kdcli.student.model.anchors import decode_boxes
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.decode import BoxLimits
from kdcli.student.model.preprocessing import normalise
from kdcli.student.runs.directory import recorded_labels
from kdcli.student.runs.load import LoadedRun, load_run
from kdcli.voc.classes import VOC
from kdcli.voc.labels_file import format_labels

INPUT = "images"
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch that passes: of probabilities, of sides."""


class StudentOutput(NamedTuple):
    """The outputs of the ONNX file: B images, A anchors, C classes, s the segmentation's side.

    Attributes:
        boxes: (B, A, 4) float32 x1 y1 x2 y2, relative to the image, clipped to 0..1.
        probabilities: (B, A, C) float32 of the classes, 0 the background; before non-maximum
            suppression.
        segmentation: (B, C, s, s) float32 class probabilities of the cells.
    """

    boxes: Tensor
    probabilities: Tensor
    segmentation: Tensor


class EndToEnd(nn.Module):
    """The student from pixels to probabilities."""

    def __init__(self, model: BlitzNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> StudentOutput:
        """(B, S, S, 3) uint8 RGB, each image resized as a whole to the square -> output."""
        found = self.model(normalise(images.permute(0, 3, 1, 2), self.model.config))
        boxes = found["detection"]
        return StudentOutput(
            boxes=decode_boxes(boxes.offsets, self.model.anchors).clamp(0, 1),
            probabilities=torch.softmax(boxes.logits, dim=-1),
            segmentation=torch.softmax(found["segmentation"], dim=1),
        )


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: The file.
        size: In bytes.
        difference: Largest deviation of ONNX Runtime's outputs from PyTorch's; None if ONNX
            Runtime is not installed.
    """

    path: Path
    size: int
    difference: float | None


def export_onnx(run: Path, out: Path, *, checkpoint: str = "last") -> Export:
    """Write a run's network to an ONNX file with any batch size, and check what it computes.

    Raises:
        StudentError: No such run, the packages are missing, ``out`` cannot be written, or the
            file computes something else than PyTorch (it is then not left there).
    """
    for package in ("onnx", "onnxscript"):
        _import(package)
    loaded = load_run(run, checkpoint=checkpoint)
    model = EndToEnd(loaded.model).eval()
    with atomic_file(out) as file:
        temporary = Path(file.name)
        _write(model, temporary, _facts(run, loaded))
        difference = compare(model, temporary) if _installed("onnxruntime") else None
        if difference is not None and not difference <= TOLERANCE:
            raise StudentError(
                f"ONNX Runtime's outputs for {run} differ from PyTorch's by {difference:.2g}, "
                f"more than {TOLERANCE:g}: {out} was not written"
            )
    return Export(out, out.stat().st_size, difference)


@torch.no_grad()
def compare(model: EndToEnd, path: Path) -> float:
    """Return the largest difference between an ONNX file's outputs and the model's.

    Noise and a plain picture, in batches of 1 and 3.
    """
    session = _import("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    side = model.model.config.input_size
    rng, differences = np.random.default_rng(0), []
    for batch in (1, 3):
        images = rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        images[0] = images[0, 0, 0]
        expected = model(torch.from_numpy(images))
        for here, there in zip(session.run(None, {INPUT: images}), expected, strict=True):
            differences.append(float(np.abs(here - there.numpy()).max()))
    return float(np.max(differences))  # NaN, should there be one


def _write(model: EndToEnd, path: Path, facts: dict[str, str]) -> None:
    side = model.model.config.input_size
    program = torch.onnx.export(
        model,
        (torch.zeros((2, side, side, 3), dtype=torch.uint8),),
        input_names=[INPUT],
        output_names=list(StudentOutput._fields),
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise StudentError("This version of PyTorch has no export to ONNX by torch.export")
    program.model.metadata_props.update(facts)
    program.save(path, external_data=False)


_SIDECAR = """\
[input]
container = "batch"
layout = "HWC"
channels = "RGB"
scale = 1
size = [{side}, {side}]
[output]
batched = true
boxes = "boxes"
class_confidences = "probabilities"
box_frame = "relative"
nms = {nms}
classes = {classes}
[semantic]
at = "segmentation"
batched = true
values = "probabilities"
classes = {classes}
"""
"""What makes the file a tutor of both roles by itself: docs/exports.md."""


def _facts(run: Path, loaded: LoadedRun) -> dict[str, str]:
    side, labels = loaded.config.model.input_size, recorded_labels(run)
    classes = json.dumps(labels.all_names, ensure_ascii=False)
    sidecar = {"side": side, "nms": BoxLimits().nms_iou, "classes": classes}
    return {
        "kdcli_sidecar": _SIDECAR.format(**sidecar),
        "classes": ",".join(labels.all_names),
        **({} if labels.names == VOC.names else {"labels": format_labels(labels)}),
        "input": f"uint8 RGB, (batch, {side}, {side}, 3), the whole image resized to the square",
        "boxes": "x1 y1 x2 y2 relative to the image, before non-maximum suppression",
        "run": run.name,
        "step": str(loaded.step),
    }


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _import(package: str) -> Any:
    if not _installed(package):
        raise StudentError(
            f"Exporting needs the package {package}: install kdcli with its extra, "
            "pip install 'kdcli[onnx]'"
        )
    return importlib.import_module(package)
