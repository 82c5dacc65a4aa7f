"""Users' own tutors as a kind. Light."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kdcli.tutor_gen.tutors.kind import NETWORK, Kind
from kdcli.tutor_gen.tutors.settings import ModelSettings

if TYPE_CHECKING:
    from kdcli.tutor_gen.tutors.tutor import Tutor

_SPEC = re.compile(r"(.+\.py|\w+(\.\w+)*):[^\W\d]\w*")
"""A file or a module, a colon, and a name in it."""


def _claims(spec: str) -> bool:
    return _SPEC.fullmatch(spec) is not None and not Path(spec).exists()


def _load(spec: str, weights: str, settings: ModelSettings) -> Tutor:
    from kdcli.tutor_gen.own.load import from_function

    return from_function(spec, weights, settings)


OWN = Kind(
    name="your own",
    named="FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, which makes it",
    gives="what its predict returns",
    weights="its own affair",
    claims=_claims,
    load=_load,
    heeds=NETWORK,
)
