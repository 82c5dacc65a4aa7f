"""Pictures for people: photographs with boxes and class masks over them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kdcli.voc.classes import VOC
from kdcli.voc.colours import PALETTE
from kdcli.voc.labels import VOID, LabelSet

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Colour = tuple[int, int, int]
_COLOURS = 20
"""Of objects, the palette's first; then they repeat."""


def overlay(
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating] | None = None,
    labels: NDArray[np.integer] | None = None,
    scores: NDArray[np.floating] | None = None,
    class_map: NDArray[np.integer] | None = None,
    masks: Iterable[NDArray[np.bool_]] = (),
    *,
    label_set: LabelSet = VOC,
    alpha: float = 0.5,
    scale: int = 1,
) -> NDArray[np.uint8]:
    """Return a photograph with translucent masks and labelled boxes over it.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        boxes: (n, 4) x1 y1 x2 y2, 0-based continuous pixels of the image.
        labels: (n,) ids of ``label_set``; without them boxes are white and unnamed.
        scores: (n,) written behind the name; the most confident box is drawn last, on top.
        class_map: (H, W) ids of ``label_set``: 0 is left clear, void is drawn white and fainter.
        masks: (H, W) of each object, each in a colour of its own: outlined, and tinted where there
            is no ``class_map``.
        label_set: gives each id its name and colour.
        alpha: opacity of the mask, 0..1.
        scale: the picture is enlarged so many times first, so that text on small ones is sharp.

    Returns:
        (scale * H, scale * W, 3) uint8 RGB.

    Raises:
        ValueError: a mask is not of the image's size.
    """
    picture = image if class_map is None else _tinted(image, class_map, label_set.palette, alpha)
    picture = _outlined(picture, masks, alpha if class_map is None else 0.0)
    canvas = Image.fromarray(enlarged(picture, scale))
    if boxes is not None and len(boxes):
        order = range(len(boxes)) if scores is None else np.argsort(scores).tolist()
        pen = ImageDraw.Draw(canvas)
        tags = []
        for index in order:
            label = None if labels is None else int(labels[index])
            colour = (255, 255, 255) if label is None else _bright(label_set.palette[label])
            text = "" if label is None else label_set.all_names[label]
            if scores is not None:
                text = f"{text} {float(scores[index]):.2f}".strip()
            corners = [scale * float(value) for value in boxes[index]]
            _draw_box(pen, corners, colour, canvas.size)
            tags.append((text, corners, colour))
        for text, corners, colour in tags:
            _draw_tag(pen, text, corners, colour, canvas.size)
    return np.asarray(canvas)


def enlarged(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Return an (H, W, 3) uint8 picture ``scale`` times as large, smoothly."""
    if scale == 1:
        return np.ascontiguousarray(image)
    height, width = image.shape[:2]
    size = (scale * width, scale * height)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _tinted(
    image: NDArray[np.uint8],
    class_map: NDArray[np.integer],
    palette: NDArray[np.uint8],
    alpha: float,
) -> NDArray[np.uint8]:
    if class_map.shape != image.shape[:2]:
        raise ValueError(
            f"Expected a label map of the image's size {image.shape[:2]}, got {class_map.shape}."
        )
    covered = class_map != 0
    found = class_map[covered]
    void = found == VOID
    colours = palette[np.where(void, 0, found)].astype(np.float32)
    colours[void] = 255
    opacity = np.where(void, alpha * 0.6, alpha).astype(np.float32)[:, None]
    tinted = np.array(image)
    tinted[covered] = np.rint(image[covered] * (1 - opacity) + colours * opacity)
    return tinted


def _outlined(
    image: NDArray[np.uint8], masks: Iterable[NDArray[np.bool_]], alpha: float
) -> NDArray[np.uint8]:
    """Return a picture with objects in colours of their own: inside of opacity ``alpha``."""
    drawn = image
    for number, mask in enumerate(masks):
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"Expected masks of the image's size {image.shape[:2]}, got {mask.shape}."
            )
        if drawn is image:
            drawn = np.array(image)
        colour = np.array(_bright(PALETTE[number % _COLOURS + 1]), np.float32)
        drawn[mask] = np.rint(drawn[mask] * (1 - alpha) + colour * alpha)
        padded = np.pad(mask, 1)
        within = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        drawn[mask & ~within] = colour
    return drawn


def _draw_box(
    pen: ImageDraw.ImageDraw, corners: list[float], colour: _Colour, size: tuple[int, int]
) -> None:
    """Draw a frame inside the box's outermost pixels, with a dark line for contrast around it."""
    thick = max(1, round(min(size) / 120))
    x1, y1 = (max(int(np.floor(value)), 0) for value in corners[:2])
    x2 = max(min(int(np.ceil(corners[2])), size[0]) - 1, x1)
    y2 = max(min(int(np.ceil(corners[3])), size[1]) - 1, y1)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=1)
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=thick)


def _draw_tag(
    pen: ImageDraw.ImageDraw,
    text: str,
    corners: list[float],
    colour: _Colour,
    size: tuple[int, int],
) -> None:
    """Write the text on a plate of the box's colour at its top left, kept inside the picture."""
    if not text:
        return
    font = _font(max(9, round(min(size) / 26)))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = int(right - left) + 5, int(bottom - top) + 4
    above = corners[1] - height
    x = int(np.clip(corners[0], 0, max(size[0] - width, 0)))
    y = int(np.clip(above if above >= 0 else corners[1], 0, max(size[1] - height, 0)))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    ink = (0, 0, 0) if _luminance(colour) > 110 else (255, 255, 255)
    pen.text((x + 2 - left, y + 2 - top), text, fill=ink, font=font)


@lru_cache(maxsize=32)
def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _bright(colour: NDArray[np.uint8]) -> _Colour:
    """Lift a palette colour, half of which are dark, to one that shows on a photograph."""
    lifted = colour.astype(np.float64) * (255 / max(int(colour.max()), 1))
    red, green, blue = (int(value) for value in lifted * 0.85 + 38)
    return red, green, blue


def _luminance(colour: _Colour) -> float:
    """Return the brightness 0..255 of a colour (ITU-R BT.601)."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
