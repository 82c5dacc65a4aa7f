"""Ctrl-C, or a signal to stop, as a request: the step under way is finished and saved first."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self

from kdcli.common.stopping import STOPPING, Stopped
from kdcli.common.torchrun import passes_signals_on


class TrainingInterrupted(Stopped):
    """A request to stop, after the checkpoint was saved; the message says how to go on."""


class Interrupts:
    """Turns Ctrl-C and the signals of ``STOPPING`` into a request to stop.

    A second Ctrl-C acts at once, but not a second signal: programs that send them send some twice,
    and have others for their impatience. Below ``torchrun`` one Ctrl-C arrives twice, from the
    terminal and from torchrun, which itself loses its patience after half a minute: there all of
    them are requests.

    Attributes:
        number: Of the first signal; 0 if nobody asked to stop.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, *STOPPING):
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
        self.number = self.number or number
        if number == signal.SIGINT and not passes_signals_on():
            signal.signal(number, self._before[number])
