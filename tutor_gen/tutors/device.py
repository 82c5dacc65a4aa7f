"""Where tutors compute, and how exactly: what their numbers depend on beside the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from kdcli.common.errors import TutorError


def device_environment(device: str) -> dict[str, str]:
    """Say it for a store's provenance: the device's name and, of a GPU, its precision."""
    if not device.startswith("cuda"):
        return {"device": device}
    return {"device": torch.cuda.get_device_name(device), "tf32": "off"}


def autocast(device: torch.device, amp: str | None) -> torch.autocast:
    """Compute in 16 bits within the block, of the type ``amp`` (see `ModelSettings`), if any."""
    return torch.autocast(device.type, getattr(torch, amp) if amp else None, enabled=bool(amp))


@contextlib.contextmanager
def seeded(weights: str) -> Iterator[None]:
    """Draw random weights from the seed of ``random:SEED`` within the block.

    Raises:
        TutorError: it is no number.
    """
    seed = weights.removeprefix("random:")
    if not seed.isdecimal():
        raise TutorError(f"expected random weights as random:SEED with a number, got '{weights}'")
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        yield


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Let GPUs compute float32 as float32 within the block, in convolutions and matrix products.

    PyTorch lets cuDNN round the inputs of convolutions to 10 bits (TF32) unless told otherwise:
    boxes then move by hundredths of a pixel, and a quarter of the label vectors change.
    """
    backends: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@contextlib.contextmanager
def explained_shortage(images: int) -> Iterator[None]:
    """Turn a GPU's failed allocation into advice; ``images`` were on it at once.

    Raises:
        TutorError: its memory does not suffice.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        fewer = f"lower --batch-size ({images} images now), or " if images > 1 else ""
        raise TutorError(
            f"the GPU's memory does not suffice for the tutors: {fewer}take a smaller --min-size, "
            "--amp fp16, or a smaller tutor"
        ) from error
