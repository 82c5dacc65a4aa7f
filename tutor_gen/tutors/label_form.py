"""How instances become label vectors: the thesis' form, and softer ones.

Formulas are in docs/label_vectors.md. Light: imported by the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from kdcli.common.errors import TutorError

MaskForm = Literal["hard", "soft"]
ClassForm = Literal["top", "full"]
Background = Literal["none", "rest", "complement"]

LEVELS = 32
MAX_LEVELS = 255
"""Levels are counted in bytes while an image is coded."""
_THESIS_WORDS = "hard masks times confidence, largest per class"

_MASKS = {"hard": "[mask >= 0.5]", "soft": "mask probability"}
_CLASSES = {"top": "confidence, at the instance's class", "full": "the box's class distribution"}
_BACKGROUND = {
    "none": "v[0] = 0",
    "rest": "v[0] = 1 - max(v[1:])",
    "complement": "v[0] = prod(1 - v[1:])",
}
_PANOPTIC = "v[c] = things * m[c] / max(1, sum(m)), v[0] = 1 - sum(v[1:])"

_DENSE = "v[c]: the network's probability of class c, per cell of its output"


@dataclass(frozen=True)
class LabelForm:
    """What label vectors are made of; the default is the thesis' definition.

    Attributes:
        masks: ``"hard"``, the mask at its threshold 0.5; or ``"soft"``, its probability.
        classes: ``"top"``, the confidence at the instance's class alone; or ``"full"``, the VOC
            part of its box's distribution over all classes.
        background: entry 0: ``"none"``, always 0; ``"rest"``, 1 - the largest other entry; or
            ``"complement"``, the product of 1 - each other entry.
        levels: vectors that are not piecewise constant are rounded to multiples of 1 / levels, or
            of 2 / levels and so on in an image that would have more than 65,536 of them.

    Raises:
        TutorError: a word that is none of these, or levels outside 2..255.
    """

    masks: MaskForm = "hard"
    classes: ClassForm = "top"
    background: Background = "none"
    levels: int = LEVELS

    def __post_init__(self) -> None:
        allowed = {"masks": MaskForm, "classes": ClassForm, "background": Background}
        for name, kind in allowed.items():
            value = getattr(self, name)
            if value not in get_args(kind):
                words = ", ".join(get_args(kind))
                raise TutorError(f"expected label vectors' {name} to be {words}, got {value!r}")
        if not 2 <= self.levels <= MAX_LEVELS:
            raise TutorError(f"expected 2 to {MAX_LEVELS} levels, got {self.levels}")

    @classmethod
    def from_settings(cls, described: str | Mapping[str, Any] | None) -> LabelForm:
        """Return the form that `describe` wrote into a cache's settings."""
        if not isinstance(described, Mapping):
            return cls()
        given = {k: described[k] for k in ("masks", "classes", "background") if k in described}
        return cls(**given, levels=described.get("levels", LEVELS))

    def describe(self, *, panoptic: bool = False, dense: bool = False) -> str | dict[str, Any]:
        """Say it for a cache's provenance; ``panoptic`` if the tutor has a semantic head.

        ``dense`` if it answers for every pixel itself.

        Levels, and the largest error by rounding, are part of it only where there is rounding.
        """
        rounding = {
            "levels": self.levels,
            "rounding_error": 0.5 / self.levels,
            "exception": "half the levels where an image would have more than 65536 vectors",
        }
        if dense:
            return {"formula": _DENSE, **rounding}
        if panoptic:
            formula = f"m[c]: largest confidence * {_MASKS[self.masks]}; {_PANOPTIC}"
            return {"masks": self.masks, "formula": formula, **rounding}
        if (self.masks, self.classes, self.background) == ("hard", "top", "none"):
            return _THESIS_WORDS
        words = asdict(self)
        del words["levels"]
        weight = f"{_MASKS[self.masks]} * {_CLASSES[self.classes]}"
        formula = f"v[c]: largest {weight}; {_BACKGROUND[self.background]}"
        return {**words, "formula": formula, **(rounding if self.masks == "soft" else {})}


THESIS = LabelForm()
"""The default."""
