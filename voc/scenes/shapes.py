"""What the sample scenes show: one drawing per class, each a little different every time.

A drawing is a list of parts, back to front, in arbitrary units. Its colours are named tones
(see `voc.scenes.paint.object_tones`), so that colour is drawn apart from shape and does not tell
the class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kdcli.voc.scenes.geometry import Part, curve, ellipse, limb, polygon, rectangle, rotation

Rng = np.random.Generator
Drawing = Callable[[Rng], list[Part]]


@dataclass(frozen=True)
class Kind:
    """How one class is drawn.

    Attributes:
        draw: makes the parts.
        tilt: largest rotation to either side, radians.
        stretch: largest relative change of the aspect ratio.
    """

    draw: Drawing
    tilt: float
    stretch: float = 0.12


def aeroplane(rng: Rng) -> list[Part]:
    """Return an airliner from the side, climbing or descending with its tilt."""
    fat = rng.uniform(0.085, 0.125)
    sweep = rng.uniform(0.14, 0.26)
    parts = [
        Part(polygon((-0.44, 0), (-0.62, -0.34), (-0.5, -0.34), (-0.22, -0.03)), "second"),
        Part(polygon((0.06, -0.03), (-0.1, -0.27), (-0.19, -0.27), (-0.14, -0.03)), "shade"),
        Part(
            np.concatenate(
                [
                    ellipse(0.42, 0, 0.2, fat)[-8:],
                    ellipse(0.42, 0, 0.2, fat)[:8],
                    polygon((-0.3, fat), (-0.6, -0.03), (-0.6, -0.07), (-0.45, -fat * 0.9)),
                ]
            ),
            "main",
        ),
    ]
    for x in np.arange(-0.32, 0.42, rng.uniform(0.09, 0.13)):
        parts.append(Part(ellipse(x, -0.03, 0.022, 0.026), "glass"))
    parts.append(Part(polygon((0.44, -0.06), (0.55, -0.05), (0.57, -0.01), (0.44, -0.01)), "glass"))
    wing = polygon((0.18, 0.03), (-0.08 - sweep, 0.36), (-0.19 - sweep, 0.36), (-0.12, 0.03))
    engine = ellipse(0.03 - sweep / 2, 0.2, 0.085, 0.042)
    parts += [Part(engine, "shade"), Part(wing, "second")]
    parts.append(Part(polygon((-0.42, 0), (-0.6, 0.1), (-0.67, 0.1), (-0.55, -0.02)), "shade"))
    return parts


def boat(rng: Rng) -> list[Part]:
    """Return a sailing boat, or a small ship with cabin and funnel."""
    hull_depth = rng.uniform(0.16, 0.22)
    hull = polygon(
        (-0.5, 0.28), (0.56, 0.26), (0.44, 0.28 + hull_depth * 0.6),
        (0.3, 0.28 + hull_depth), (-0.34, 0.28 + hull_depth), (-0.45, 0.28 + hull_depth * 0.5),
    )  # fmt: skip
    stripe = polygon((-0.48, 0.33), (0.515, 0.315), (0.47, 0.36), (-0.465, 0.38))
    below = [Part(hull, "main"), Part(stripe, "light")]
    if rng.random() < 0.6:
        top = rng.uniform(-0.62, -0.5)
        mast = rectangle(-0.045, top, 0.0, 0.3)
        belly = rng.uniform(0.02, 0.1)
        sail = np.array(curve((0.03, top + 0.03), (0.3 + belly, top / 2), (0.46, 0.2)))
        jib = np.array(curve((-0.08, top + 0.08), (-0.2 - belly, top / 2 + 0.1), (-0.42, 0.2)))
        return [
            Part(mast, "dark"),
            Part(np.concatenate([sail, polygon((0.03, 0.2))]), "light"),
            Part(np.concatenate([jib, polygon((-0.08, 0.2))]), "second"),
            *below,
        ]
    windows = [Part(ellipse(x, 0.16, 0.035, 0.035), "glass") for x in np.linspace(-0.2, 0.2, 4)]
    funnel_x = rng.uniform(-0.2, 0.02)
    return [
        Part(rectangle(funnel_x - 0.06, -0.34, funnel_x + 0.06, -0.02), "second"),
        Part(rectangle(funnel_x - 0.06, -0.34, funnel_x + 0.06, -0.25), "dark"),
        Part(rectangle(-0.2, -0.1, 0.22, 0.1), "light"),
        Part(polygon((0.02, -0.06), (0.19, -0.06), (0.19, 0.05), (0.02, 0.05)), "glass"),
        Part(rectangle(-0.32, 0.05, 0.32, 0.3), "light"),
        *windows,
        *below,
    ]


def bottle(rng: Rng) -> list[Part]:
    """Return a bottle with neck, cap and label."""
    body = rng.uniform(0.15, 0.2)
    neck = rng.uniform(0.05, 0.07)
    shoulder = rng.uniform(-0.2, -0.05)
    neck_end = shoulder - rng.uniform(0.12, 0.2)
    side = curve((body, shoulder), (body * 0.95, neck_end + 0.03), (neck, neck_end))
    right = np.array([(body, 0.47), *side, (neck, -0.5)])
    outline = np.concatenate([right, (right * (-1, 1))[::-1]])
    base = rectangle(-body, 0.3, body, 0.5, 0.05)
    low, high = shoulder + 0.12, shoulder + rng.uniform(0.3, 0.42)
    return [
        Part(base, "main"),
        Part(outline, "main"),
        Part(rectangle(-body, low, body, high), "light"),
        Part(ellipse(0, (low + high) / 2, body * 0.5, (high - low) * 0.28), "second"),
        Part(rectangle(-neck * 1.25, -0.54, neck * 1.25, -0.44, 0.01), "dark"),
    ]


def bus(rng: Rng) -> list[Part]:
    """Return a bus from the side."""
    length = rng.uniform(0.52, 0.68)
    parts = [
        Part(rectangle(-length, -0.32, length, 0.28, 0.07), "main"),
        Part(rectangle(-length + 0.01, 0.04, length - 0.01, rng.uniform(0.09, 0.15)), "second"),
    ]
    count = int(rng.integers(4, 7))
    edges = np.linspace(-length + 0.05, length - 0.26, count + 1)
    for left, right in pairwise(edges):
        parts.append(Part(rectangle(left, -0.23, right - 0.035, -0.02, 0.02), "glass"))
    parts.append(Part(rectangle(length - 0.24, -0.21, length - 0.1, 0.25), "light"))
    parts.append(Part(rectangle(length - 0.22, -0.18, length - 0.12, 0.1), "glass"))
    parts.append(Part(polygon((length - 0.07, -0.23), (length, -0.23), (length, 0.0),
                              (length - 0.07, 0.0)), "glass"))  # fmt: skip
    for x in (-length * 0.6, length * 0.42):
        parts.append(Part(ellipse(x, 0.28, 0.115, 0.115), "dark"))
        parts.append(Part(ellipse(x, 0.28, 0.05, 0.05), "light"))
    return parts


def cat(rng: Rng) -> list[Part]:
    """Return a sitting cat, or its face alone."""
    face = _cat_face(rng)
    if rng.random() < 0.35:
        return face
    lean = rng.uniform(-0.08, 0.08)
    tail = curve((0.2, 0.82), (0.62, 0.86), (0.42, 0.4), (0.7, rng.uniform(0.1, 0.4)))
    body = ellipse(lean, 0.58, 0.32, 0.42)
    return [
        Part(limb(tail, 0.11, 0.07), "main"),
        Part(body, "main"),
        Part(ellipse(lean, 0.55, 0.16, 0.25), "light"),
        Part(ellipse(lean - 0.13, 0.93, 0.12, 0.075), "main"),
        Part(ellipse(lean + 0.13, 0.93, 0.12, 0.075), "main"),
        *face,
    ]


def _cat_face(rng: Rng) -> list[Part]:
    ear = rng.uniform(-0.5, -0.4)
    parts = []
    for side in (-1, 1):
        flip = np.array([side, 1.0])
        outer = polygon((0.08, -0.2), (0.27, ear), (0.35, -0.02)) * flip
        inner = polygon((0.15, -0.2), (0.255, ear + 0.09), (0.3, -0.08)) * flip
        parts += [Part(outer, "main"), Part(inner, "blush")]
    parts.append(Part(ellipse(0, 0, 0.36, 0.28), "main"))
    parts.append(Part(polygon((-0.06, -0.27), (0.06, -0.27), (0, -0.12)), "second"))
    parts.append(Part(ellipse(0, 0.13, 0.16, 0.11), "light"))
    look = rng.uniform(-0.02, 0.02)
    for side in (-1, 1):
        parts.append(Part(ellipse(side * 0.15, -0.03, 0.075, 0.06), "glow"))
        parts.append(Part(ellipse(side * 0.15 + look, -0.03, 0.024, 0.055), "black"))
        for tilt in (-0.04, 0.05):
            whisker = limb([(side * 0.1, 0.11), (side * 0.44, 0.1 + tilt)], 0.014, 0.01)
            parts.append(Part(whisker, "dark"))
    parts.append(Part(polygon((-0.045, 0.06), (0.045, 0.06), (0, 0.11)), "black"))
    return parts


def person(rng: Rng) -> list[Part]:
    """Return a standing or waving person."""
    parts = []
    stride = rng.uniform(0.02, 0.2)
    wide = rng.uniform(0.13, 0.17)
    for side in (-1, 1):
        foot = (side * (0.08 + stride), 0.62)
        knee = (side * (0.09 + stride * 0.55), 0.36)
        parts.append(Part(limb([(side * 0.075, 0.1), knee, foot], 0.15, 0.1), "second"))
        parts.append(Part(ellipse(foot[0] + 0.03, 0.66, 0.085, 0.04), "dark"))
    for side in (-1, 1):
        raised = rng.uniform(-0.9, 1.25)
        elbow = (side * (wide + 0.13), -0.14 + 0.1 * raised)
        hand = (elbow[0] + side * rng.uniform(-0.04, 0.12), elbow[1] + 0.2 * np.sign(raised))
        parts.append(Part(limb([(side * wide * 0.8, -0.2), elbow, hand], 0.11, 0.08), "main"))
        parts.append(Part(ellipse(hand[0], hand[1], 0.052, 0.052), "skin"))
    torso = polygon(
        (-wide, -0.26), (wide, -0.26), (wide * 1.05, -0.1), (wide * 0.95, 0.16),
        (-wide * 0.95, 0.16), (-wide * 1.05, -0.1),
    )  # fmt: skip
    parts.append(Part(rectangle(-0.05, -0.34, 0.05, -0.22), "skin"))
    parts.append(Part(torso, "main"))
    parts.append(Part(ellipse(0, -0.47, 0.155, 0.165), "hair"))
    parts.append(Part(ellipse(0, -0.435, 0.125, 0.14), "skin"))
    parts.append(Part(ellipse(-0.05, -0.45, 0.018, 0.022), "black"))
    parts.append(Part(ellipse(0.05, -0.45, 0.018, 0.022), "black"))
    parts.append(
        Part(limb(curve((-0.05, -0.37), (0, -0.34), (0.05, -0.37)), 0.016, 0.016), "black")
    )
    return parts


def pottedplant(rng: Rng) -> list[Part]:
    """Return a pot with a fan of leaves, sometimes in flower."""
    parts = []
    count = int(rng.integers(6, 10))
    reach = rng.uniform(0.5, 0.66)
    fan = np.linspace(-1.25, 1.25, count) + rng.normal(0, 0.08, count)
    for order in rng.permutation(count):
        angle = float(fan[order])
        length = reach * rng.uniform(0.8, 1.05)
        leaf = ellipse(0, -length / 2, rng.uniform(0.065, 0.1), length / 2)
        tip = np.array([0.0, -length])
        turn = rotation(angle).T
        parts.append(Part(leaf @ turn, "leaf" if order % 2 else "leaf_shade"))
        if rng.random() < 0.12:
            x, y = tip @ turn
            parts.append(Part(ellipse(float(x), float(y), 0.075, 0.075), "second"))
            parts.append(Part(ellipse(float(x), float(y), 0.03, 0.03), "glow"))
    top, bottom = rng.uniform(0.2, 0.27), rng.uniform(0.13, 0.18)
    parts.append(Part(polygon((-top, 0.04), (top, 0.04), (bottom, 0.42), (-bottom, 0.42)), "main"))
    parts.append(Part(rectangle(-top - 0.04, -0.05, top + 0.04, 0.06, 0.015), "main"))
    return parts


def tvmonitor(rng: Rng) -> list[Part]:
    """Return a television or monitor on its stand, with something on the screen."""
    wide = rng.uniform(0.45, 0.6)
    frame = rng.uniform(0.03, 0.06)
    inside = (-wide + frame, -0.36 + frame, wide - frame, 0.28 - frame)
    x1, y1, x2, y2 = inside
    parts = [
        Part(rectangle(-0.07, 0.25, 0.07, 0.42), "dark"),
        Part(rectangle(-0.26, 0.39, 0.26, 0.46, 0.02), "dark"),
        Part(rectangle(-wide, -0.36, wide, 0.28, 0.03), "dark"),
        Part(rectangle(*inside), "screen"),
    ]
    style = rng.random()
    if style < 0.4:
        horizon = rng.uniform(-0.1, 0.1)
        hill = np.array(curve((x1, horizon), (x1 / 2, -0.25), (x2 / 2, 0.2), (x2, horizon)))
        parts.append(Part(np.concatenate([hill, polygon((x2, y2), (x1, y2))]), "second"))
        parts.append(Part(ellipse(rng.uniform(x1 / 2, x2 / 2), y1 + 0.13, 0.06, 0.06), "glow"))
    elif style < 0.7:
        for y in np.arange(y1 + 0.06, y2 - 0.05, 0.095):
            end = rng.uniform(0, x2 - 0.04)
            parts.append(Part(rectangle(x1 + 0.05, y, end, y + 0.035), "light"))
    else:
        shine = polygon((x1 + 0.1, y2), (x1 + 0.38, y1), (x1 + 0.6, y1), (x1 + 0.32, y2))
        parts.append(Part(shine, "glare"))
    return parts


KINDS: dict[str, Kind] = {
    "aeroplane": Kind(aeroplane, tilt=0.4),
    "boat": Kind(boat, tilt=0.14),
    "bottle": Kind(bottle, tilt=0.3, stretch=0.2),
    "bus": Kind(bus, tilt=0.1, stretch=0.15),
    "cat": Kind(cat, tilt=0.18),
    "person": Kind(person, tilt=0.15),
    "pottedplant": Kind(pottedplant, tilt=0.1),
    "tvmonitor": Kind(tvmonitor, tilt=0.08, stretch=0.15),
}
"""The classes that the sample scenes draw, by VOC name."""
