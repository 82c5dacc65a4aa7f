"""Colour, texture and backgrounds of the sample scenes, and the painting itself."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kdcli.voc.scenes.geometry import Part, ellipse, limb, polygon, rectangle

Rng = np.random.Generator
Colour = tuple[int, int, int]
Tones = Mapping[str, Colour]

_SUPERSAMPLE = 3
"""Shapes are drawn this many times larger and averaged: smooth edges."""
_FURS = (
    (0.07, 0.6, 0.85),
    (0.08, 0.35, 0.55),
    (0.0, 0.0, 0.45),
    (0.1, 0.12, 0.92),
    (0.6, 0.1, 0.25),
)
_SKINS = ((0.07, 0.28, 0.98), (0.06, 0.42, 0.85), (0.06, 0.5, 0.62), (0.06, 0.55, 0.42))


@dataclass(frozen=True, eq=False)
class Sticker:
    """One painted shape, ready to be laid over a picture.

    Attributes:
        colour: (h, w, 3) float32, 0..255.
        alpha: (h, w) float32, 0..1, the share of each pixel that the shape covers.
        left: x of its first column in the picture, may be negative.
        top: y of its first row in the picture, may be negative.
    """

    colour: NDArray[np.float32]
    alpha: NDArray[np.float32]
    left: int
    top: int


def object_tones(rng: Rng) -> dict[str, Colour]:
    """Draw the colours of one object; the same way for every class."""
    main = _main_colour(rng)
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in main))
    other = (hue + rng.uniform(0.25, 0.75)) % 1
    leaf = rng.uniform(0.2, 0.42) if rng.random() < 0.8 else rng.random()
    leaf_value = rng.uniform(0.4, 0.8)
    skin = _SKINS[int(rng.integers(len(_SKINS)))]
    return {
        "main": main,
        "shade": _rgb(hue, saturation, value * 0.7),
        "second": _rgb(other, rng.uniform(0.2, 0.9), rng.uniform(0.3, 0.95)),
        "light": _rgb(hue, saturation * 0.15, rng.uniform(0.8, 1.0)),
        "dark": _rgb(rng.random(), 0.2, rng.uniform(0.08, 0.25)),
        "black": _rgb(0, 0, 0.06),
        "glass": _rgb(0.57, rng.uniform(0.1, 0.45), rng.uniform(0.3, 0.9)),
        "screen": _rgb(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.2, 0.9)),
        "glare": _rgb(0.55, 0.08, 0.97),
        "glow": _rgb(rng.uniform(0.1, 0.4), rng.uniform(0.5, 0.9), 0.95),
        "blush": _rgb(0.98, 0.35, 0.9),
        "hair": _rgb(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.1, 0.8)),
        "skin": _rgb(skin[0], skin[1], skin[2] * rng.uniform(0.9, 1.0)),
        "leaf": _rgb(leaf, rng.uniform(0.4, 0.85), leaf_value),
        "leaf_shade": _rgb(leaf + 0.02, rng.uniform(0.4, 0.85), leaf_value * 0.72),
    }


def paint(
    parts: Sequence[Part],
    tones: Tones,
    matrix: NDArray[np.float64],
    centre: tuple[float, float],
    rng: Rng,
) -> Sticker:
    """Paint a shape.

    Args:
        parts: back to front.
        tones: colour of every tone that the parts name.
        matrix: (2, 2), from the shape's units to pixels.
        centre: x, y in the picture where the middle of the shape's extent lies.
        rng: for texture and light.

    Returns:
        The whole shape, whether or not it lies inside the picture.
    """
    outlines = [part.points @ matrix.T for part in parts]
    low = np.min([outline.min(axis=0) for outline in outlines], axis=0)
    high = np.max([outline.max(axis=0) for outline in outlines], axis=0)
    corner = np.floor(np.asarray(centre) - (high - low) / 2).astype(int) - 2
    shift = np.asarray(centre) - (high + low) / 2 - corner
    width, height = (np.ceil(high - low).astype(int) + 5).tolist()
    canvas = Image.new("RGBA", (width * _SUPERSAMPLE, height * _SUPERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    for part, outline in zip(parts, outlines, strict=True):
        corners = ((outline + shift) * _SUPERSAMPLE).ravel().tolist()
        red, green, blue = tones[part.tone]
        pen.polygon(corners, fill=(red, green, blue, 255))
        edge = (int(red * 0.55), int(green * 0.55), int(blue * 0.55), 255)
        pen.line(corners + corners[:4], fill=edge, width=3, joint="curve")
    pixels = np.asarray(canvas.reduce(_SUPERSAMPLE), dtype=np.float32)
    colour = pixels[..., :3] * _texture(rng, height, width)[..., None]
    return Sticker(colour, pixels[..., 3] / np.float32(255), int(corner[0]), int(corner[1]))


def background(rng: Rng, height: int, width: int) -> NDArray[np.float32]:
    """Return a (height, width, 3) float32 background: two grounds, soft light, patterns."""
    top, bottom = _gradient(rng, height, width), _gradient(rng, height, width)
    style = rng.random()
    if style < 0.7:
        rows = np.arange(height, dtype=np.float32)[:, None]
        columns = np.linspace(0, 1, width, dtype=np.float32)[None]
        horizon = height * rng.uniform(0.3, 0.8) + height * rng.uniform(-0.15, 0.15) * columns
        horizon = horizon + height * rng.uniform(0, 0.06) * np.sin(columns * rng.uniform(3, 20))
        picture = np.where((rows < horizon)[..., None], top, bottom)
    else:
        blend = smooth_noise(rng, height, width, int(rng.integers(3, 7)))[..., None]
        picture = top * blend + bottom * (1 - blend)
    if rng.random() < 0.5:
        picture = picture * _texture(rng, height, width)[..., None]
    light = 0.8 + 0.4 * smooth_noise(rng, height, width, 4)
    return np.asarray(picture * light[..., None], dtype=np.float32)


def distractor(rng: Rng) -> list[Part]:
    """Return a thing of no class: a blob, box, disc, ring of discs, star, post or fence."""
    tones = ("main", "second", "light", "dark", "leaf", "glass", "shade")
    one, two = (tones[int(rng.integers(len(tones)))] for _ in range(2))
    style = int(rng.integers(6))
    if style == 0:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 10))))
        radii = rng.uniform(0.25, 0.5, len(angles))
        return [Part(np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1), one)]
    if style == 1:
        tall = rng.uniform(0.2, 0.8)
        inner = rectangle(-0.3, -tall * 0.6, 0.3, tall * 0.6)
        return [Part(rectangle(-0.5, -tall, 0.5, tall, 0.04), one), Part(inner, two)]
    if style == 2:
        inner = ellipse(0, 0, 0.25, 0.2)
        return [Part(ellipse(0, 0, 0.5, rng.uniform(0.3, 0.5)), one), Part(inner, two)]
    if style == 3:
        angles = np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, 0.22, 0.5)
        return [Part(np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1), one)]
    if style == 4:
        top = rng.uniform(-0.9, -0.5)
        post = limb([(0, top), (0, 0.6)], 0.09, 0.09)
        sign = polygon((-0.25, top), (0.25, top), (0, top + 0.4))
        return [Part(post, one), Part(sign, two)]
    bars = [Part(rectangle(x, -0.3, x + 0.08, 0.35), one) for x in np.linspace(-0.6, 0.5, 5)]
    return [Part(rectangle(-0.65, -0.12, 0.65, -0.02), two), *bars]


def smooth_noise(rng: Rng, height: int, width: int, cells: int) -> NDArray[np.float32]:
    """Return (height, width) float32 noise in 0..1 with about ``cells`` blobs a side."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    fine = coarse.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) / np.float32(255)


def _gradient(rng: Rng, height: int, width: int) -> NDArray[np.float32]:
    """Return a (height, width, 3) float32 ramp between two muted, related colours."""
    hue, saturation = rng.random(), rng.uniform(0.05, 0.6)
    start = np.array(_rgb(hue, saturation, rng.uniform(0.45, 0.98)), dtype=np.float32)
    end_hue = hue + rng.uniform(-0.08, 0.08)
    end = np.array(_rgb(end_hue, saturation * 0.7, rng.uniform(0.45, 0.98)), dtype=np.float32)
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(0, 1, width, dtype=np.float32)[None]
    ramp = np.minimum(rows + np.float32(rng.uniform(0, 0.5)) * columns, 1)[..., None]
    return np.asarray(start + (end - start) * ramp, dtype=np.float32)


def _texture(rng: Rng, height: int, width: int) -> NDArray[np.float32]:
    """Return a (height, width) float32 factor around 1: flat, stripes, dots, or blotches."""
    style, depth = int(rng.integers(4)), rng.uniform(0.05, 0.17)
    light = 1 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, width, dtype=np.float32)[None]
    if style == 0:
        return np.repeat(light, height, axis=0)
    if style == 1:
        blotches = smooth_noise(rng, height, width, int(rng.integers(5, 16))) - 0.5
        return np.asarray(light + 2 * depth * blotches, dtype=np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 14)
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None]
    along = (columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / period)
    wave = np.sin(along, dtype=np.float32)
    if style == 3:
        across = (rows * np.cos(angle) - columns * np.sin(angle)) * (2 * np.pi / period)
        wave = wave * np.sin(across, dtype=np.float32)
    return np.asarray(light + depth * wave, dtype=np.float32)


def _main_colour(rng: Rng) -> Colour:
    """Draw a colour of the visible world: a third fur and earth, the rest anything."""
    if rng.random() < 0.33:
        hue, saturation, value = _FURS[int(rng.integers(len(_FURS)))]
        return _rgb(hue, saturation, value * rng.uniform(0.8, 1.05))
    return _rgb(rng.random(), rng.uniform(0.1, 0.9), rng.uniform(0.35, 0.98))


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1))
    return round(red * 255), round(green * 255), round(blue * 255)
