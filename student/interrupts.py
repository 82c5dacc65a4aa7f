"""Ctrl-C as a request: the step under way is finished and saved first."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during training, after the checkpoint was saved; the message says how to go on."""


class Interrupts:
    """Turns the first Ctrl-C (or SIGTERM) into a request to stop; a second one acts at once.

    Below ``torchrun`` one Ctrl-C arrives twice, from the terminal and from torchrun, which itself
    loses its patience after half a minute: there all of them are requests.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in self.SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._request)
            except ValueError:
                break  # not in the main thread: whoever is there has to stop us
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, self._before[number])
