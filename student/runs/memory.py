"""Out of memory: one message that names the setting to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from kdcli.common.distributed import ranks
from kdcli.common.errors import StudentError
from kdcli.student.config.schema import RunConfig


@contextlib.contextmanager
def explained_shortage(config: RunConfig, setting: str = "") -> Iterator[None]:
    """Turn a failed allocation into advice: to lower ``setting``, or how a training step gets by.

    Raises:
        StudentError: The GPU's or the host's memory does not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        where = "GPU" if isinstance(error, torch.cuda.OutOfMemoryError) else "machine"
        advice = f": set {setting} lower" if setting else _advice_for_step(config)
        raise StudentError(f"The {where}'s memory does not suffice{advice}") from error


def is_shortage(error: BaseException) -> bool:
    """Return whether an allocation failed, on a GPU or on the host."""
    # On the host, PyTorch's allocator raises a RuntimeError like any other.
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )


def _advice_for_step(config: RunConfig) -> str:
    optim = config.optim
    at_once = optim.batch_size // (optim.accumulate * ranks())
    remedies = []
    if at_once > 1:
        parts = next(
            n for n in range(optim.accumulate + 1, optim.batch_size + 1)
            if optim.batch_size % (n * ranks()) == 0
        )  # fmt: skip
        remedies.append(
            f"set optim.accumulate={parts} ({optim.accumulate} now) to work the {optim.batch_size} "
            f"images of a step off in more parts, or lower optim.batch_size"
        )
    if optim.bf16 is not True:
        remedies.append("set optim.bf16=true")
    remedies.append("take a smaller model")
    images = f"{at_once} image{'s' * (at_once > 1)} at once"
    return f" for {images}: " + ", or ".join(remedies)
