"""The processes of one run, started by PyTorch's ``torchrun``: who they are, what they tell."""

from __future__ import annotations

import datetime
import pickle
import time
from collections.abc import Iterator
from typing import Any

from torch.distributed import HashStore, Store  # type: ignore[attr-defined]  # documented so
from torch.distributed.rendezvous import rendezvous

from kdcli.common.torchrun import launch

_FOREVER = datetime.timedelta(days=365)
"""Processes wait for the slowest of them; when one dies, torchrun ends the others."""
_SECONDS_BETWEEN_LOOKS = 0.2


class ProcessGroup:
    """Processes that share a key-value store; rank 0 leads.

    Args:
        store: PyTorch's store that all of them see.
        rank: this process, 0 to ``size - 1``.
        size: how many there are.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store = store
        self.rank = rank
        self.size = size
        store.set_timeout(_FOREVER)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that opens the cache, reports and completes."""
        return self.rank == 0

    def tell(self, name: str, value: object) -> None:
        """Let the others ask for a value of this process."""
        self._store.set(f"{name}/{self.rank}", pickle.dumps(value))  # type: ignore[arg-type]  # bytes, too

    def ask(self, name: str, rank: int) -> Any:
        """What that process tells, as soon as it does."""
        key = f"{name}/{rank}"
        while not self._store.check([key]):  # asked to wait itself, it would let no signal through
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return pickle.loads(self._store.get(key))

    def advance(self, images: int) -> int:
        """Add to the images that all processes have done; return their sum."""
        return int(self._store.add("images", images))

    def wait_for(self, images: int) -> Iterator[int]:
        """Yield how many images are done, until it is so many."""
        while (done := self.advance(0)) < images:
            yield done
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        yield done


def single_process() -> ProcessGroup:
    """Return a team of this process only."""
    return ProcessGroup(HashStore(), 0, 1)


def current_group() -> ProcessGroup:
    """Return the team that torchrun's environment names, or `single_process` without it."""
    if launch() is None:
        return single_process()
    store, rank, size = next(rendezvous("env://"))
    return ProcessGroup(store, rank, size)
