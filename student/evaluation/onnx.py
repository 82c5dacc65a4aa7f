"""A trained student as an ONNX file, for programs without PyTorch."""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdcli.common.errors import StudentError
from kdcli.common.files import atomic_file
from kdcli.student.model.blitznet import BlitzNet
from kdcli.student.model.config import ModelConfig
from kdcli.student.model.decode import BoxLimits
from kdcli.student.model.preprocessing import normalise
from kdcli.student.runs.directory import recorded_labels
from kdcli.student.runs.load import LoadedRun, load_run
from kdcli.student.tasks.registry import tasks_of
from kdcli.voc.classes import VOC
from kdcli.voc.labels_file import format_labels

INPUT = "images"
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch that passes: of probabilities, of sides."""


class EndToEnd(nn.Module):
    """The student from pixels to probabilities: the outputs that its tasks export, in their order.

    Their shapes and meanings are those of `Task.exports`; all are float32.
    """

    def __init__(self, model: BlitzNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, S, S, 3) uint8 RGB, each image resized as a whole to the square -> outputs."""
        said = self.model(normalise(images.permute(0, 3, 1, 2), self.model.config))
        tasks = tasks_of(self.model.config)
        parts = (task.export(said[task.name], self.model.anchors) for task in tasks)
        return tuple(output for part in parts for output in part)


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
        output_names=list(_outputs(model.model.config)),
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
"""
"""The beginning of what makes the file a tutor by itself, of the roles that its tasks add:
docs/exports.md."""


def _outputs(config: ModelConfig) -> dict[str, str]:
    """What the file's outputs are called, and what they are."""
    return {name: text for task in tasks_of(config) for name, text in task.exports.items()}


def _facts(run: Path, loaded: LoadedRun) -> dict[str, str]:
    model, labels = loaded.config.model, recorded_labels(run)
    classes = json.dumps(labels.all_names, ensure_ascii=False)
    sidecar = "".join([_SIDECAR, *(task.sidecar for task in tasks_of(model))])
    side = model.input_size
    return {
        "kdcli_sidecar": sidecar.format(side=side, nms=BoxLimits().nms_iou, classes=classes),
        "classes": ",".join(labels.all_names),
        **({} if labels.names == VOC.names else {"labels": format_labels(labels)}),
        "input": f"uint8 RGB, (batch, {side}, {side}, 3), the whole image resized to the square",
        **_outputs(model),
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
