"""Coding and writing beside the networks: a thread that takes what the tutors said."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Hands items to ``work`` in a thread of its own, in their order. Use as a context manager.

    At most ``ahead`` items wait; `put` then waits, too. An exception of ``work`` ends the thread's
    work and comes out of the next `put`, or of the block's end. An exception inside the block lets
    the items that wait be worked off first: they are finished work.

    Args:
        work: called with each item.
        ahead: how many items may wait.
    """

    def __init__(self, work: Callable[[T], None], ahead: int) -> None:
        self._work = work
        self._queue: queue.Queue[T | None] = queue.Queue(ahead)
        self._error: BaseException | None = None
        # A daemon: whatever happens to the main thread, the process ends when that does.
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._check()

    def put(self, item: T) -> None:
        """Queue an item; raise what ``work`` raised before."""
        self._check()
        self._queue.put(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error  # from here on items are only taken off the queue

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
