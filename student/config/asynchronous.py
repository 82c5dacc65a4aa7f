"""Settings of asynchronous updates."""

from __future__ import annotations

from dataclasses import dataclass

from kdcli.common.config import expect

GROUPS = ("shared", "detection", "segmentation")
"""Groups of parameters: what both tasks share, then each task's own."""


@dataclass(frozen=True)
class AsynchronousConfig:
    """Each group of parameters waits for an effective batch of its own (UberNet, arXiv 1609.02132).

    `student.training.asynchronous` has the formula. The numbers count images, over all processes,
    and are looked at after each step; 0 stands for ``optim.batch_size``.

    Attributes:
        enabled: Whether updates are asynchronous; without, the numbers play no part.
        shared: Trunk, extra blocks and decoder are updated when so many images were seen.
        detection: The detection heads are, when so many were that learn detection.
        segmentation: The segmentation head is, when so many were that learn segmentation.
    """

    enabled: bool = False
    shared: int = 0
    detection: int = 0
    segmentation: int = 0

    def __post_init__(self) -> None:
        for group in GROUPS:
            number = getattr(self, group)
            expect(number >= 0, f"optim.asynchronous.{group}", "a number of images, or 0 for "
                    "optim.batch_size", number)  # fmt: skip

    def effective_batches(self, batch_size: int) -> dict[str, int]:
        """Return how many images each of ``GROUPS`` waits for, with steps of ``batch_size``."""
        return {group: getattr(self, group) or batch_size for group in GROUPS}
