"""TorchScript exports as a kind of tutor. Light."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.tutors.file_kinds import CONFIG_ENDINGS, holds_weights, other_kind
from kdcli.tutor_gen.tutors.kind import Kind
from kdcli.tutor_gen.tutors.settings import ModelSettings

if TYPE_CHECKING:
    from kdcli.tutor_gen.tutors.tutor import Tutor


def _claims(spec: str) -> bool:
    return Path(spec).is_file() and Path(spec).suffix not in CONFIG_ENDINGS


def _load(spec: str, weights: str, settings: ModelSettings) -> Tutor:
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
    from kdcli.tutor_gen.torchscript.tutor import TorchScriptTutor

    return TorchScriptTutor(path, settings)


TORCHSCRIPT = Kind(
    name="TorchScript",
    named="an exported file, its sidecar FILE.toml beside it",
    gives="boxes; masks, if its sidecar names them",
    weights="in the file",
    claims=_claims,
    load=_load,
)
