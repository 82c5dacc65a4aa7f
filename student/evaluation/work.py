"""Work on items of any origin, done by worker processes as the items are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

from torch.utils.data import DataLoader, Dataset

from kdcli.common.workers import read_batches, worker_options

S = TypeVar("S")
T = TypeVar("T")


def worked_off(
    work: Callable[[S], T], items: Iterable[S], workers: int, setting: str
) -> Iterator[T]:
    """Yield ``work`` of each item, in order.

    PyTorch's loader, whose indices are the items: it asks for the next when a worker has finished
    one, so that two a worker wait at most, and its signals, losses and refusals are told as
    elsewhere. The workers start with the first item asked for, before ``items`` does.

    Args:
        work: Done in a worker; items and results are sent there and back.
        items: If they end by an error, what they gave before is worked off first.
        workers: Processes; 0 works in this one.
        setting: See ``common.workers.read_batches``.

    Raises:
        KdcliError: See ``common.workers.read_batches``; and whatever ``items`` raises.
    """
    given = _UntilItFails(items)
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", _Work(work)),
        sampler=cast("Iterable[Any]", given),
        batch_size=None,
        collate_fn=_as_it_is,
        **worker_options(workers),
    )
    yield from read_batches(loader, setting)
    if given.error is not None:
        raise given.error


class _UntilItFails(Generic[S]):
    """Ends where ``items`` fail, and keeps why."""

    def __init__(self, items: Iterable[S]) -> None:
        self.items = items
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[S]:
        try:
            yield from self.items
        except Exception as error:
            self.error = error


class _Work(Generic[S, T]):
    """A data set whose indices are what is to be worked on."""

    def __init__(self, work: Callable[[S], T]) -> None:
        self.work = work

    def __getitem__(self, item: S) -> T:
        return self.work(item)


def _as_it_is(result: T) -> T:
    return result
