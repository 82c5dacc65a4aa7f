"""From a loader of batches to the batches of each step, and how long they were waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from cache.errors import CacheError
from student.batch import Batch
from student.errors import StudentError
from voc.errors import DevkitError

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """This process' batches of one step, and the seconds that the loop waited for them."""

    batches: list[Batch]
    waited: float


def steps(loader: Iterable[Batch], parts: int) -> Iterator[Step]:
    """Yield the steps, each of ``parts`` batches.

    Raises:
        StudentError, DevkitError, CacheError: A sample could not be made, or a worker is gone.
    """
    iterator = iter(loader)
    while True:
        started = time.perf_counter()
        batches = [next_batch(iterator) for _ in range(parts)]
        waited = time.perf_counter() - started
        found = [batch for batch in batches if batch is not None]
        if not found:
            return
        yield Step(found, waited)


def next_batch(iterator: Iterator[T]) -> T | None:
    """Return the next batch; what failed in a worker comes as the one clear message it was."""
    try:
        return next(iterator, None)
    except (StudentError, DevkitError, CacheError) as error:
        # A worker's exception carries its traceback in its message; the cause is the last line.
        name = f"{type(error).__module__}.{type(error).__name__}: "
        raise type(error)(str(error).rpartition(name)[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or "killed" not in str(error):
            raise
        raise StudentError(
            "The system ended a process that prepares samples, most often for want of memory: "
            "set runtime.workers lower, or optim.accumulate higher"
        ) from error
