"""torchvision's models as a kind of tutor. Light."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kdcli.tutor_gen.tutors.kind import NETWORK, Description, Kind, Named
from kdcli.tutor_gen.tutors.settings import ModelSettings

if TYPE_CHECKING:
    from kdcli.tutor_gen.tutors.tutor import Tutor

PREFIX = "torchvision:"
_OFFICIAL = re.compile(r"\w+_Weights\.[A-Z0-9_]+")


def _load(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    from kdcli.tutor_gen.torchvision.load import from_name

    return from_name(spec.removeprefix(PREFIX), weights, settings)


def _again(description: Description, role: str) -> Named | None:
    if description.get("kind") != "torchvision":
        return None
    weights = str(description.get("weights", ""))
    known = weights.startswith("random:") or _OFFICIAL.fullmatch(weights)
    return Named(PREFIX + str(description["name"]), weights) if known else None


TORCHVISION = Kind(
    name="torchvision",
    named="torchvision:NAME, such as torchvision:maskrcnn_resnet50_fpn_v2",
    gives="boxes (Faster R-CNN, RetinaNet, FCOS, SSD); masks (Mask R-CNN); a class of every pixel "
    "(DeepLab, FCN, LR-ASPP)",
    weights="torchvision's own, by name or the default, downloaded; a file (.pth); random:SEED",
    claims=lambda spec: spec.startswith(PREFIX),
    load=_load,
    package="torchvision",
    install="pip install torchvision",
    again=_again,
    heeds=NETWORK,
)
