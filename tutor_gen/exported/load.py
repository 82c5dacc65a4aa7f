"""Loading an export as a tutor."""

from __future__ import annotations

from pathlib import Path

import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.dense import DenseExport
from kdcli.tutor_gen.exported.engine import Engine
from kdcli.tutor_gen.exported.export import Export
from kdcli.tutor_gen.exported.onnx import Onnx
from kdcli.tutor_gen.exported.sidecar import Sidecar, read_export_sidecar
from kdcli.tutor_gen.exported.torchscript import TorchScript
from kdcli.tutor_gen.exported.tutor import ExportedTutor
from kdcli.tutor_gen.tutors.settings import ModelSettings


def from_torchscript(path: Path, settings: ModelSettings) -> ExportedTutor | DenseExport:
    """Load a TorchScript file; its sidecar is ``<path>.toml``, not that of a link's target.

    For label vectors (``settings.masks``), one whose sidecar has a table ``[semantic]`` is dense.

    Raises:
        TutorError: see `TorchScript`, `read_export_sidecar` and `ExportedTutor`; or another size,
            precision, or distributions over classes are wanted, or boxes of a dense export.
    """
    _refuse(path, TorchScript.what, settings)
    sidecar = read_export_sidecar(path)
    return _tutor(path, sidecar, TorchScript(path, torch.device(settings.device)), settings)


def from_onnx(path: Path, settings: ModelSettings) -> ExportedTutor | DenseExport:
    """Load an ONNX file; without a sidecar beside it, what its own metadata say is read as one.

    Raises:
        TutorError: as `from_torchscript`, see `Onnx`.
    """
    _refuse(path, Onnx.what, settings)
    engine = Onnx(path, torch.device(settings.device))
    return _tutor(path, read_export_sidecar(path, engine.sidecar), engine, settings)


def _tutor(
    path: Path, sidecar: Sidecar, engine: Engine, settings: ModelSettings
) -> ExportedTutor | DenseExport:
    export = Export(path, sidecar.input, engine, settings.device)
    if settings.masks and sidecar.semantic is not None:
        return DenseExport(export, sidecar.semantic, settings.labels)
    if sidecar.output is None:
        raise TutorError(
            f"{path} gives a class for each pixel, no boxes: name it with --segmentation-tutor"
        )
    return ExportedTutor(export, sidecar.output, settings)


def _refuse(path: Path, what: str, settings: ModelSettings) -> None:
    """Refuse what an export cannot do otherwise than it was exported to."""
    if settings.min_size is not None:
        raise TutorError(f"{path} is {what}; set the size it wants as short_side in its sidecar")
    if settings.amp is not None:
        raise TutorError(f"{path} is {what}, which computes as exported; drop --amp")
    if settings.masks and settings.form.classes == "full":
        raise TutorError(
            f"{path} is {what}, which gives each box's class and confidence but no "
            "distribution over classes; generate without --label-classes full"
        )
