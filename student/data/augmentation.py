"""The random side of the geometry: draws one ``Transform`` per sample, by the reference's recipe.

BlitzNet's recipe: zoom out with probability .5 to 1.05..4 times the size, then crop an area of
.3..1 of that canvas which covers at least one box to a drawn fraction, then mirror (the BlitzNet
paper, section 4, and its public code).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdcli.student.data.geometry import FloatArray, Transform, Window

if TYPE_CHECKING:
    from kdcli.student.config.schema import AugmentationConfig


def draw_transform(
    rng: np.random.Generator,
    height: int,
    width: int,
    boxes: FloatArray,
    side: int,
    config: AugmentationConfig,
) -> Transform:
    """Draw the geometry of one sample.

    Args:
        rng: The sample's own generator; all randomness comes from it.
        height: Of the source image, in pixels.
        width: Of the source image, in pixels.
        boxes: (n, 4) boxes of which a crop has to cover at least one; may be empty.
        side: Of the sample, in pixels.
        config: The probabilities and ranges.
    """
    canvas = draw_canvas(rng, height, width, config)
    window = draw_crop(rng, canvas, boxes, config)
    flip = bool(rng.random() < config.flip_probability)
    return Transform.fit(height, width, window, side, flip)


def draw_canvas(
    rng: np.random.Generator, height: int, width: int, config: AugmentationConfig
) -> Window:
    """Draw the canvas: the image itself or, with some probability, a larger one around it."""
    if rng.random() >= config.zoom_out_probability:
        return Window(0.0, 0.0, float(width), float(height))
    factor = rng.uniform(*config.zoom_out_range)
    left, top = rng.random(2) * (factor - 1) * (width, height)
    return Window(-left, -top, factor * width - left, factor * height - top)


def draw_crop(
    rng: np.random.Generator, canvas: Window, boxes: FloatArray, config: AugmentationConfig
) -> Window:
    """Draw a crop of the canvas that covers at least one box to the fraction drawn first.

    Without boxes the first crop is taken. After ``crop_tries`` crops that all fail, the whole
    canvas is.
    """
    coverage = config.crop_coverages[rng.integers(len(config.crop_coverages))]
    few = boxes.tolist()  # few enough for plain numbers to be faster than arrays
    for _ in range(config.crop_tries):
        crop = _draw_rectangle(rng, canvas, config)
        if crop is not None and (not few or any(covered(box, crop) >= coverage for box in few)):
            return crop
    return canvas


def _draw_rectangle(
    rng: np.random.Generator, canvas: Window, config: AugmentationConfig
) -> Window | None:
    """Draw a rectangle in the canvas; none if no area in the range has the drawn aspect there.

    As in TensorFlow's ``sample_distorted_bounding_box`` the aspect (width by height) is uniform,
    then the height within what the area's range and the canvas allow.
    """
    aspect = rng.uniform(*config.crop_aspect)
    area = canvas.width * canvas.height
    smallest = math.sqrt(config.crop_area[0] * area / aspect)
    largest = math.sqrt(config.crop_area[1] * area / aspect)
    largest = min(largest, canvas.height, canvas.width / aspect)
    height, x, y = rng.random(3).tolist()
    if smallest > largest:
        return None
    height = smallest + height * (largest - smallest)
    width = height * aspect
    left = canvas.x1 + x * (canvas.width - width)
    top = canvas.y1 + y * (canvas.height - height)
    return Window(left, top, left + width, top + height)


def covered(box: Sequence[float], window: Window) -> float:
    """Return the fraction of a box' area that lies in the window."""
    x1, y1, x2, y2 = box
    width = max(min(x2, window.x2) - max(x1, window.x1), 0.0)
    height = max(min(y2, window.y2) - max(y1, window.y1), 0.0)
    return width * height / max((x2 - x1) * (y2 - y1), 1e-6)
