"""What runs an export."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class FailedError(Exception):
    """An export does not take what it was given; the reason in one line."""


class Engine(Protocol):
    """A loaded export.

    Attributes:
        what: what messages call such a file.
        kind: what descriptions call it.
        takes_bytes: whether it wants uint8, not numbers of 32 or 16 bits.
    """

    what: str
    kind: str
    takes_bytes: bool

    def __call__(self, pixels: torch.Tensor, container: str) -> Any:
        """Run it on an image.

        Args:
            pixels: (C, H, W) or (H, W, C) float32, on the device of the engine.
            container: see `tutor_gen.exported.sidecar.Input`.

        Returns:
            What it returns: tensors in dictionaries, lists, tuples.

        Raises:
            FailedError: It fails on that.
        """


def contained(pixels: torch.Tensor, container: str) -> Any:
    """Return an image as the first of a list or of a batch, or as it is."""
    if container == "list":
        return [pixels]
    return pixels[None] if container == "batch" else pixels
