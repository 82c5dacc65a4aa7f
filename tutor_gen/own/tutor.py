"""A user's tutor, with an account of where it came from and where it failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcli.tutor_gen.own.failures import explained
from kdcli.tutor_gen.tutors.preparation import Preparation, Prepared
from kdcli.tutor_gen.tutors.tutor import Answer, PreparingTutor, Tutor


class OwnTutor:
    """A user's object behind the `tutor_gen.tutors.tutor.Tutor` protocol.

    Args:
        made: the object.
        spec: names it in messages.
        file: where its code is.
        description: its own, and what made it.
    """

    def __init__(self, made: Tutor, spec: str, file: Path, description: Mapping[str, Any]) -> None:
        self._made = made
        self._spec = spec
        self._file = file
        self._description = dict(description)

    @property
    def description(self) -> Mapping[str, Any]:
        """What it says of itself, and ``made_by``: file, function and digest."""
        return self._description

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[Answer]:
        """Label images, each (H, W, 3) uint8 RGB.

        Raises:
            TutorError: the user's code failed, with file, line and error.
        """
        with explained(self._spec, self._file):
            return self._made.predict(images)


class OwnPreparingTutor(OwnTutor):
    """One whose images are prepared ahead, see `tutor_gen.tutors.tutor.PreparingTutor`."""

    _made: PreparingTutor

    @property
    def preparation(self) -> Preparation:
        """How it wants its images."""
        return self._made.preparation

    def predict_prepared(self, prepared: Sequence[Prepared]) -> Sequence[Answer]:
        """Label images that ``preparation`` made. Errors as `predict`."""
        with explained(self._spec, self._file):
            return self._made.predict_prepared(prepared)
