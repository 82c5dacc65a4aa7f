"""Sample scenes: pictures of some VOC classes with exact boxes and masks, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from kdcli.voc.annotation import Annotation
from kdcli.voc.classes import CLASS_IDS
from kdcli.voc.images import surrounding_box
from kdcli.voc.labels import VOID
from kdcli.voc.scenes.geometry import rotation
from kdcli.voc.scenes.paint import (
    Sticker,
    background,
    distractor,
    object_tones,
    paint,
    smooth_noise,
)
from kdcli.voc.scenes.shapes import KINDS

Rng = np.random.Generator

_ASPECTS = ((4, 3), (3, 2), (4, 3), (3, 4), (2, 3), (1, 1))
_OBJECT_COUNTS = (0.24, 0.3, 0.24, 0.13, 0.09)
_LEAST_VISIBLE = 0.25
"""No object may be covered further than this; else the scene would be unfair."""
_DIFFICULT_VISIBLE = 0.45
_LEAST_PIXELS = 150
_TRUNCATED_SHARE = 0.04
"""An object is truncated when more than this share of it lies outside the picture."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One drawn scene and everything that is known about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        annotation: boxes of the visible pixels of every object.
        class_mask: (H, W) uint8, class ids, `VOID` along the borders of objects.
        object_mask: (H, W) uint8, 1..n in the order of ``annotation``, the same `VOID` borders.
        visible: (H, W) uint8, the object map before the void borders were laid over it: every
            object's exact visible pixels, for those who train on instances.
    """

    image: NDArray[np.uint8]
    annotation: Annotation
    class_mask: NDArray[np.uint8]
    object_mask: NDArray[np.uint8]
    visible: NDArray[np.uint8]


@dataclass
class _Canvas:
    """A scene while it is being painted."""

    picture: NDArray[np.float32]
    owner: NDArray[np.uint8]
    labels: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)


def draw_scene(seed: int, index: int) -> Scene:
    """Draw one scene.

    Between one and five objects of the classes in `voc.scenes.shapes.KINDS` before clutter of no
    class; objects cover one another and are cut by the border now and then. Colours, textures and
    sizes are drawn the same way for every class, so that only the shape tells the class.

    Args:
        seed: names a stream of scenes; streams of different seeds have no scene in common.
        index: which scene of the stream; alone with ``seed`` it determines every pixel.
    """
    rng = np.random.default_rng([seed, index])
    height, width = _draw_size(rng)
    canvas = _Canvas(background(rng, height, width), np.zeros((height, width), np.uint8))
    for _ in range(int(rng.integers(2, 7))):
        _lay(canvas, _draw_distractor(rng, height, width, 0.08, 0.4), None)
    wanted = int(rng.choice(len(_OBJECT_COUNTS), p=_OBJECT_COUNTS)) + 1
    for _ in range(40):
        if len(canvas.labels) == wanted:
            break
        name = str(rng.choice(list(KINDS)))
        _lay(canvas, _draw_object(rng, name, height, width, wanted), CLASS_IDS[name])
    if rng.random() < 0.3:
        _lay(canvas, _draw_distractor(rng, height, width, 0.06, 0.2), None)
    image = _photograph(rng, canvas.picture)
    return _describe(f"{seed:04d}_{index:06d}", image, canvas)


def _draw_size(rng: Rng) -> tuple[int, int]:
    longest = int(rng.integers(160, 251))
    across, down = _ASPECTS[int(rng.integers(len(_ASPECTS)))]
    scale = longest / max(across, down)
    return round(down * scale), round(across * scale)


def _draw_object(rng: Rng, name: str, height: int, width: int, wanted: int) -> Sticker:
    kind = KINDS[name]
    parts = kind.draw(rng)
    crowd = 1.0 - 0.08 * (wanted - 1)
    size = np.exp(rng.uniform(np.log(0.4), np.log(0.88))) * crowd
    matrix = rotation(rng.uniform(-kind.tilt, kind.tilt)) @ np.diag(
        [float(rng.choice([-1.0, 1.0])) * np.exp(rng.uniform(-kind.stretch, kind.stretch)), 1.0]
    )
    points = np.concatenate([part.points for part in parts]) @ matrix.T
    extent = np.ptp(points, axis=0)
    # The longest side of the object as a share of the picture's side it lies along.
    scale = float(size / np.max(extent / (width, height)))
    centre = _draw_centre(rng, extent * scale, (width, height))
    return paint(parts, object_tones(rng), matrix * scale, centre, rng)


def _draw_centre(
    rng: Rng, extent: NDArray[np.float64], size: tuple[int, int]
) -> tuple[float, float]:
    """Draw a place inside the picture, or with one chance in five across one of its borders."""
    half = extent / 2
    low, high = half + 1, np.maximum(np.asarray(size) - half - 1, half + 1)
    centre = rng.uniform(low, high)
    if rng.random() < 0.22:
        axis = int(rng.integers(2))
        lost = rng.uniform(0.1, 0.45) * extent[axis]
        centre[axis] = half[axis] - lost if rng.random() < 0.5 else size[axis] - half[axis] + lost
    return float(centre[0]), float(centre[1])


def _draw_distractor(rng: Rng, height: int, width: int, least: float, most: float) -> Sticker:
    parts = distractor(rng)
    size = rng.uniform(least, most) * min(height, width)
    matrix = rotation(rng.uniform(-0.4, 0.4)) * size
    centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    return paint(parts, object_tones(rng), matrix, centre, rng)


def _lay(canvas: _Canvas, sticker: Sticker, label: int | None) -> None:
    """Lay a sticker over the canvas, unless that would hide an object or hardly show itself."""
    height, width = canvas.owner.shape
    rows, columns = sticker.alpha.shape
    top, left = max(sticker.top, 0), max(sticker.left, 0)
    bottom, right = min(sticker.top + rows, height), min(sticker.left + columns, width)
    if bottom <= top or right <= left:
        return
    part = np.s_[
        top - sticker.top : bottom - sticker.top, left - sticker.left : right - sticker.left
    ]
    place = np.s_[top:bottom, left:right]
    alpha = sticker.alpha[part]
    solid = alpha >= 0.5
    owner = canvas.owner.copy()
    owner[place][solid] = 0 if label is None else len(canvas.labels) + 1
    whole = int((sticker.alpha >= 0.5).sum())
    inside = int(solid.sum())
    visible = np.bincount(owner.ravel(), minlength=len(canvas.whole) + 2)[1:]
    for count, total in zip(visible.tolist(), canvas.whole, strict=False):
        if count < max(_LEAST_VISIBLE * total, _LEAST_PIXELS):
            return
    if label is not None:
        if inside < max(0.5 * whole, _LEAST_PIXELS):
            return
        canvas.labels.append(label)
        canvas.whole.append(inside)
        canvas.outside.append(1 - inside / whole)
    canvas.owner = owner
    cover = alpha[..., None]
    canvas.picture[place] += cover * (sticker.colour[part] - canvas.picture[place])


def _photograph(rng: Rng, picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the picture as a camera would: exposure, colour cast, blur, noise."""
    height, width = picture.shape[:2]
    cast = rng.uniform(0.92, 1.08, 3).astype(np.float32) * np.float32(rng.uniform(0.75, 1.15))
    picture = picture * cast + np.float32(rng.uniform(-12, 20))
    sharp = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    blurred = sharp.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.8))))
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(1.5, 7)
    shadow = 0.9 + 0.2 * smooth_noise(rng, height, width, 3)
    graded = np.asarray(blurred, dtype=np.float32) * shadow[..., None] + grain
    return np.asarray(np.clip(graded + 0.5, 0, 255), dtype=np.uint8)


def _describe(image_id: str, image: NDArray[np.uint8], canvas: _Canvas) -> Scene:
    """Read boxes and masks off the canvas."""
    owner = canvas.owner
    height, width = owner.shape
    boxes = np.zeros((len(canvas.labels), 4), dtype=np.float32)
    shown = np.zeros(len(canvas.labels))
    for position in range(len(canvas.labels)):
        mask = owner == position + 1
        boxes[position] = surrounding_box(mask)
        shown[position] = mask.sum() / canvas.whole[position]
    labels = np.array(canvas.labels, dtype=np.int64)
    annotation = Annotation(
        image_id=image_id,
        height=height,
        width=width,
        boxes=boxes,
        labels=labels,
        difficult=shown < _DIFFICULT_VISIBLE,
        truncated=np.array(canvas.outside) > _TRUNCATED_SHARE,
    )
    border = _borders(owner)
    class_mask = np.concatenate([[0], labels]).astype(np.uint8)[owner]
    return Scene(
        image=image,
        annotation=annotation,
        class_mask=np.where(border, np.uint8(VOID), class_mask),
        object_mask=np.where(border, np.uint8(VOID), owner),
        visible=owner,
    )


def _borders(owner: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels that touch a pixel of another owner: borders of about two pixels."""
    padded = np.pad(owner, 1, mode="edge")
    height, width = owner.shape
    border = np.zeros((height, width), dtype=np.bool_)
    for down in range(3):
        for right in range(3):
            border |= padded[down : down + height, right : right + width] != owner
    return border
