"""What a photograph becomes for a torchvision model, or inside of it, known without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcli.tutor_gen.tutors.preparation import Preparation, Prepared


@dataclass(frozen=True)
class ShortSide(Preparation):
    """The image in RGB, its shorter side resized as torchvision's ``resize`` does it."""

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return what (height, width) become; the longer side is rounded down."""
        if not (height and width):
            return height, width
        if height < width:
            return self.short_side, int(self.short_side * width / height)
        return int(self.short_side * height / width), self.short_side


@dataclass(frozen=True)
class InsideModel(Preparation):
    """The whole image in RGB, of which the model's own transform makes ``shape``.

    Attributes:
        fixed: height and width that the model resizes every image to; None if it keeps the shape.
    """

    fixed: tuple[int, int] | None = None

    @classmethod
    def of(cls, transform: Any) -> InsideModel:
        """Return what a ``GeneralizedRCNNTransform`` does."""
        return cls(
            short_side=int(transform.min_size[-1]),
            long_side=int(transform.max_size),
            multiple=int(transform.size_divisible),
            fixed=transform.fixed_size and tuple(transform.fixed_size[::-1]),
        )

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return what (height, width) become inside the model."""
        if self.fixed is not None or not (height and width):
            return self.fixed or (height, width)
        scale = min(
            self.short_side / min(height, width),
            self.long_side / max(height, width),
        )
        return int(height * scale), int(width * scale)  # as PyTorch's interpolate rounds

    def __call__(self, image: NDArray[np.uint8]) -> Prepared:
        """Prepare a (H, W, 3) uint8 RGB image; TutorError as `Preparation`."""
        height, width = image.shape[:2]
        self.refuse_nothing((height, width), self.shape(height, width))
        pixels = image if image.flags.writeable else image.copy()
        return Prepared(torch.from_numpy(np.ascontiguousarray(pixels)), height, width)
