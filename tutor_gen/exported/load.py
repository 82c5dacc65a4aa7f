"""Loading an export as a tutor."""

from __future__ import annotations

from pathlib import Path

import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.onnx import Onnx
from kdcli.tutor_gen.exported.sidecar import read_export_sidecar
from kdcli.tutor_gen.exported.torchscript import TorchScript
from kdcli.tutor_gen.exported.tutor import ExportedTutor
from kdcli.tutor_gen.tutors.settings import ModelSettings


def from_torchscript(path: Path, settings: ModelSettings) -> ExportedTutor:
    """Load a TorchScript file; its sidecar is ``<path>.toml``, not that of a link's target.

    Raises:
        TutorError: see `TorchScript`, `read_export_sidecar` and `ExportedTutor`; or another size,
            precision, or distributions over classes are wanted.
    """
    _refuse(path, TorchScript.what, settings)
    sidecar = read_export_sidecar(path)
    engine = TorchScript(path, torch.device(settings.device))
    return ExportedTutor(path, sidecar, engine, settings)


def from_onnx(path: Path, settings: ModelSettings) -> ExportedTutor:
    """Load an ONNX file; without a sidecar beside it, what its own metadata say is read as one.

    Raises:
        TutorError: as `from_torchscript`, see `Onnx`.
    """
    _refuse(path, Onnx.what, settings)
    engine = Onnx(path, torch.device(settings.device))
    sidecar = read_export_sidecar(path, engine.sidecar)
    return ExportedTutor(path, sidecar, engine, settings)


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
