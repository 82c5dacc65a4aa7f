"""Signals that ask a program to stop: it does so in good order, as after Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGUSR1)
"""What systems send before they kill; SLURM warns by SIGUSR1, if asked to."""


class Stopped(KeyboardInterrupt):
    """One of ``STOPPING`` arrived, where Ctrl-C would raise ``KeyboardInterrupt``.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let the first of ``STOPPING`` raise ``Stopped`` within the block.

    Those after it are ignored, that the block may end in good order: ``timeout`` sends each twice,
    SLURM one kind after the other.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    try:
        before = {number: signal.signal(number, stop) for number in STOPPING}
    except ValueError:
        before = {}  # not in the main thread: whoever is there has to stop us
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
