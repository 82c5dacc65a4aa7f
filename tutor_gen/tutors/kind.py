"""What kinds of tutor there are to the rest: how each is named, loaded, and found again.

Light: a kind imports its library, and PyTorch, only when a tutor of it is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdcli.tutor_gen.tutors.settings import ModelSettings

if TYPE_CHECKING:
    from kdcli.tutor_gen.tutors.tutor import Tutor

Description = Mapping[str, Any]
"""What a tutor says of itself, see `tutor_gen.tutors.tutor.Tutor`."""


@dataclass(frozen=True)
class Named:
    """What a user names as a tutor, both parts as in `tutor_gen.registry.load_tutor`.

    ``spec`` None leaves it to a store's provenance, ``weights`` None to the tutor.
    """

    spec: str | None = None
    weights: str | None = None


def _by_name_alone(description: Description, role: str) -> Named | None:
    return None


@dataclass(frozen=True)
class Kind:
    """A kind of tutor.

    Attributes:
        name: what it is called.
        named: how a tutor of it is named, in words for users.
        gives: what its tutors can give.
        weights: where their weights come from.
        claims: whether a spec names a tutor of this kind; kinds are asked in their order.
        load: gives the tutor of a spec, its weights ("" for its own) and settings; TutorError
            where that is not to be had.
        package: the library it needs, as it is imported; "" for none beside kdcli's own.
        install: how that is installed.
        model: the full name of what a spec names, so that two specs of one model are seen to be.
        again: what names a tutor of this description in a role, if the description alone can tell:
            not of files, whose folders it does not know.
        heeds: the settings of `InferenceConfig`, and ``score_threshold``, that its tutors take.
    """

    name: str
    named: str
    gives: str
    weights: str
    claims: Callable[[str], bool]
    load: Callable[[str, str, ModelSettings], Tutor]
    package: str = ""
    install: str = ""
    model: Callable[[str], str] = str
    again: Callable[[Description, str], Named | None] = _by_name_alone
    heeds: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether its library is there; nothing is imported to see that."""
        return not self.package or importlib.util.find_spec(self.package) is not None


NETWORK = ("score_threshold", "detections_per_image", "min_size", "amp")
"""What a network that is built here heeds: everything."""
