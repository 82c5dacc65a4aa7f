"""Exports as kinds of tutor. Light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS, holds_weights, other_kind
from kdcli.tutor_gen.tutors.kind import Kind
from kdcli.tutor_gen.tutors.settings import ModelSettings

if TYPE_CHECKING:
    from kdcli.tutor_gen.tutors.tutor import Tutor

_CHOOSING = ("score_threshold", "detections_per_image")
"""What decides where an export leaves the choice of its detections to us."""


def _is_onnx(spec: str) -> bool:
    return Path(spec).suffix.lower() == ".onnx" and Path(spec).is_file()


def _load_onnx(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    if weights:
        raise TutorError(f"{spec} is an ONNX file, which holds its own weights; drop {weights}")
    from kdcli.tutor_gen.exported.load import from_onnx

    return from_onnx(Path(spec), settings)


ONNX = Kind(
    name="ONNX",
    named="an .onnx file, its sidecar FILE.toml beside it (a student's needs none)",
    gives="boxes; masks, or a class of every cell, if its sidecar names them",
    weights="in the file",
    claims=_is_onnx,
    load=_load_onnx,
    package="onnxruntime",
    install="pip install 'kdcli[onnx]'",
    heeds=_CHOOSING,
)


def _is_other_file(spec: str) -> bool:
    return Path(spec).is_file() and Path(spec).suffix not in CONFIG_ENDINGS


def _load_torchscript(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    path = Path(spec)
    if kind := other_kind(path):
        own = f"; a tutor of your own in it is named {path}:FUNCTION" * (path.suffix == ".py")
        raise TutorError(
            f"{path} is {kind}, which kdcli does not run; name a Detectron2 configuration (.yaml) "
            f"of the same model, or export the model to TorchScript (torch.jit.save){own}"
        )
    if holds_weights(path):
        raise TutorError(
            f"{path} holds weights only; name the model's configuration (.yaml) or its zoo name as "
            "the tutor, and this file with --detection-weights or --segmentation-weights. A whole "
            "model, if it is one, becomes a tutor by torch.jit.save, not by torch.save"
        )
    if weights:
        raise TutorError(
            f"{path} is a TorchScript file, which holds its own weights; drop {weights}"
        )
    from kdcli.tutor_gen.exported.load import from_torchscript

    return from_torchscript(path, settings)


TORCHSCRIPT = Kind(
    name="TorchScript",
    named="an exported file, its sidecar FILE.toml beside it",
    gives="boxes; masks, or a class of every cell, if its sidecar names them",
    weights="in the file",
    claims=_is_other_file,
    load=_load_torchscript,
    heeds=_CHOOSING,
)
