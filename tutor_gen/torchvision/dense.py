"""torchvision's models that give every pixel a class and no objects."""

from __future__ import annotations

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.tutors.settings import ModelSettings
from kdcli.tutor_gen.tutors.tutor import Tutor


def from_name(name: str, weights: str, settings: ModelSettings) -> Tutor:
    """Load one of them, as `tutor_gen.torchvision.load.from_name`.

    Raises:
        TutorError: always; there are no such tutors yet.
    """
    raise TutorError(
        f"torchvision:{name} is a tutor of pixels, which gives a class of every pixel but no "
        "objects: kdcli has none of these yet. torchvision:maskrcnn_resnet50_fpn_v2 gives boxes "
        "and masks, the zoo's panoptic_fpn_R_101_3x a class of every pixel, too"
    )
