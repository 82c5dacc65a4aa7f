"""Worker processes of PyTorch's DataLoader: they leave signals alone, and say why they fail.

Knows of PyTorch only what it is given, as this package does without it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkContext
from multiprocessing.queues import Queue
from typing import Any, TypeVar

from kdcli.common.errors import KdcliError, ResourceError
from kdcli.common.stopping import STOPPING

T = TypeVar("T")

SHARED_MEMORY = "/dev/shm"


def worker_options(workers: int) -> Mapping[str, Any]:
    """Return what a DataLoader with so many worker processes is to be made with, by name."""
    if not workers:
        return {"num_workers": 0}
    return {
        "num_workers": workers,
        "multiprocessing_context": _Context(),
        "worker_init_fn": _start,
    }


@dataclass(frozen=True)
class _Lost:
    """Sent in the place of a batch that could not be sent: why not."""

    reason: str


class _LostError(RuntimeError):
    """A batch was lost on its way."""


class _Queue(Queue):  # type: ignore[type-arg]  # which is not subscriptable
    """A queue that sends the reason if it cannot send an object.

    Python's prints it and drops the object, and who waits for that one waits for ever. For a batch
    of PyTorch's loader that happens when the shared memory is full.
    """

    def _on_queue_feeder_error(self, error: Exception, item: tuple[int, object]) -> None:
        self.put((item[0], _Lost(f"{type(error).__name__}: {error}")))


class _Context(ForkContext):
    """What a DataLoader makes its queues of."""

    def Queue(self, maxsize: int = 0) -> _Queue:  # noqa: N802
        return _Queue(maxsize, ctx=self)


def _start(worker: int) -> None:
    """Set up a worker process, just forked."""
    _end_if_orphaned()
    # What it was forked with is shared as long as nobody writes to it. The collector would mark
    # every object there, and so copy the pages of all: 50 MB in each worker.
    gc.freeze()
    _leave_signals_to_main()
    sys.excepthook = _report


def _end_if_orphaned() -> None:
    """End if the main process was killed before this worker had started.

    PyTorch's workers take whoever is their parent when they begin to work for the one to watch:
    this one would outlive its own for ever.
    """
    parent = multiprocessing.parent_process()  # as it was when it forked
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)


def _report(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Print what a worker's thread did not catch, but for a batch's reader that went.

    multiprocessing's thread, which hands over batches' memory, says so when the main process is
    stopped while it fetches one.
    """
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _leave_signals_to_main() -> None:
    """Let signals reach the main process alone, which stops its workers in good order.

    Ctrl-C goes to all processes of a terminal, what SLURM or ``timeout`` send to all of a job.
    """
    for number in (signal.SIGINT, *STOPPING):
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """End workers that are left: Python would ask them to by SIGTERM, and wait for ever."""
    left = [child for child in multiprocessing.active_children() if child.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch takes their end for an accident
    for child in left:
        child.kill()


# Runs before what multiprocessing has registered when it was imported.
atexit.register(_end_workers)


def read_batches(loader: Iterable[T], setting: str) -> Iterator[T]:
    """Return a loader's batches; its workers start before this returns.

    Args:
        loader: a DataLoader, made with `worker_options`.
        setting: by which a user changes the number of workers.

    Raises:
        ResourceError: the system refuses what workers need, or ended one.
        KdcliError: what failed in a worker, as the clear message it was.
    """
    explained = functools.partial(_explained, setting)
    with explained(starting=True):
        _try_semaphores(loader)
        iterator = iter(loader)

    def batches() -> Iterator[T]:
        while True:
            with explained():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                if isinstance(batch, _Lost):
                    raise _LostError(batch.reason)
            yield batch

    return batches()


def _try_semaphores(loader: Any) -> None:
    """Fail if the workers' queues and event cannot be made.

    PyTorch's iterator fails when it is half made, and complains once more when it is tidied up.
    """
    if workers := getattr(loader, "num_workers", 0):
        context = loader.multiprocessing_context
        [context.Semaphore() for _ in range(3 * (workers + 1) + 5)]


@contextlib.contextmanager
def _explained(setting: str, starting: bool = False) -> Iterator[None]:
    try:
        yield
    except KdcliError as error:
        # A worker's exception carries its traceback in its message; the cause is the last line.
        name = f"{type(error).__module__}.{type(error).__name__}: "
        raise type(error)(str(error).rpartition(name)[2].strip()) from error
    except (OSError, RuntimeError) as error:
        why = _why(error, setting, starting)
        if why is None:
            raise
        raise ResourceError(why) from error


def _why(error: Exception, setting: str, starting: bool) -> str | None:
    """Say what the system refused; None if it is no matter of the system."""
    # The last line: a worker's exception carries its traceback before it.
    reason = getattr(error, "strerror", None) or str(error).strip().rpartition("\n")[2]
    without = f"or do without worker processes ({setting}=0)"
    if "Too many open files" in reason or "ancdata" in reason:
        return (
            f"Worker processes need more open files than the system allows ({reason}): raise the "
            f"limit (ulimit -n 65536), {without}."
        )
    no_room = starting and getattr(error, "errno", 0) == errno.ENOSPC
    if no_room or "shared memory" in reason or "</torch_" in reason:
        return (
            f"The shared memory ({SHARED_MEMORY}{_room()}) does not suffice for worker processes "
            f"({reason}): give the container more (docker run --shm-size=2g, or --ipc=host), "
            f"{without}."
        )
    if starting and isinstance(error, OSError):
        return f"Worker processes cannot be started ({reason}): start fewer, {without}."
    if isinstance(error, _LostError):
        return f"A worker process cannot hand over what it read ({reason}): mend that, {without}."
    if "DataLoader worker" in reason and ("killed" in reason or "exited" in reason):
        return (
            "The system ended a worker process, most often for want of memory: start fewer "
            f"({setting}), or take smaller batches."
        )
    return None


def _room() -> str:
    try:
        disk = os.statvfs(SHARED_MEMORY)
    except OSError:
        return ""
    free, size = (blocks * disk.f_frsize / 2**20 for blocks in (disk.f_bavail, disk.f_blocks))
    return f", {free:.1f} of {size:.1f} MiB free"
