"""All kinds of tutor, in the order in which they are asked whether a spec is theirs. Light."""

from __future__ import annotations

from kdcli.tutor_gen.detectron2.kind import DETECTRON2, SAMPLE
from kdcli.tutor_gen.exported.kind import ONNX, TORCHSCRIPT
from kdcli.tutor_gen.own.kind import OWN
from kdcli.tutor_gen.torchvision.kind import TORCHVISION
from kdcli.tutor_gen.tutors.kind import Kind

KINDS: tuple[Kind, ...] = (SAMPLE, TORCHVISION, OWN, ONNX, TORCHSCRIPT, DETECTRON2)


def kind_of(spec: str) -> Kind:
    """Return the kind of the tutor that a spec (not ``none``) names; Detectron2 takes the rest."""
    return next(kind for kind in KINDS if kind.claims(spec))
