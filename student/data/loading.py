"""From a loader of batches to the batches of each step, and how long they were waited for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kdcli.common.workers import read_batches
from kdcli.student.data.batch import Batch


@dataclass(frozen=True)
class Step:
    """This process' batches of one step, and the seconds that the loop waited for them."""

    batches: list[Batch]
    waited: float


def steps(loader: Iterable[Batch], micro_batches: int) -> Iterator[Step]:
    """Yield the steps, each of ``micro_batches`` batches.

    Raises:
        KdcliError: A sample could not be made, or a worker is gone.
    """
    iterator = read_batches(loader, "runtime.workers")
    while True:
        started = time.perf_counter()
        batches = [next(iterator, None) for _ in range(micro_batches)]
        waited = time.perf_counter() - started
        found = [batch for batch in batches if batch is not None]
        if not found:
            return
        yield Step(found, waited)
