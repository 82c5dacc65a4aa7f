"""Outlines from which the sample scenes' objects are put together.

An outline is an (n, 2) float64 array of x, y corners, y pointing down, in a shape's own units; the
painter scales a whole shape to its place. Curves are polygons with enough corners to look round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(n, 2) x, y."""

_ROUND = 28
"""Corners of a full ellipse: invisible as corners at the size of a sample scene."""


@dataclass(frozen=True, eq=False)
class Part:
    """One filled outline of a shape.

    Attributes:
        points: (n, 2) corners in the shape's units.
        tone: which of the object's colours fills it, e.g. ``"main"``.
    """

    points: Points
    tone: str


def polygon(*corners: tuple[float, float]) -> Points:
    """Return the outline through the given corners."""
    return np.array(corners, dtype=np.float64)


def rectangle(x1: float, y1: float, x2: float, y2: float, corner: float = 0.0) -> Points:
    """Return a rectangle, its corners rounded with radius ``corner``."""
    if corner <= 0:
        return polygon((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    quarter = np.linspace(0, np.pi / 2, 6)
    centres = (
        (x2 - corner, y2 - corner),
        (x1 + corner, y2 - corner),
        (x1 + corner, y1 + corner),
        (x2 - corner, y1 + corner),
    )
    arcs = [
        np.stack(
            [
                x + corner * np.cos(quarter + turn * np.pi / 2),
                y + corner * np.sin(quarter + turn * np.pi / 2),
            ],
            axis=1,
        )
        for turn, (x, y) in enumerate(centres)
    ]
    return np.concatenate(arcs)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> Points:
    """Return an ellipse around (x, y), turned clockwise by ``turn`` radians."""
    angles = np.linspace(0, 2 * np.pi, _ROUND, endpoint=False)
    points = np.stack([radius_x * np.cos(angles), radius_y * np.sin(angles)], axis=1)
    return points @ rotation(turn).T + (x, y)


def limb(path: Sequence[tuple[float, float]], start: float, end: float) -> Points:
    """Return a limb along a path: round ends, width going from ``start`` to ``end``."""
    spine = np.array(path, dtype=np.float64)
    step = np.gradient(spine, axis=0)
    length = np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1) / length
    half = np.linspace(start, end, len(spine))[:, None] / 2
    cap = np.linspace(0, np.pi, 8)[1:-1, None]
    first, last = step[0] / length[0], step[-1] / length[-1]
    end_cap = spine[-1] + half[-1] * (np.cos(cap) * normal[-1] + np.sin(cap) * last)
    start_cap = spine[0] + half[0] * (-np.cos(cap) * normal[0] - np.sin(cap) * first)
    return np.concatenate(
        [spine + half * normal, end_cap, (spine - half * normal)[::-1], start_cap]
    )


def curve(*controls: tuple[float, float], corners: int = 12) -> list[tuple[float, float]]:
    """Return points along the Bezier curve of the given control points, as a path for `limb`."""
    times = np.linspace(0, 1, corners)[:, None]
    level = [np.repeat(np.array([point], dtype=np.float64), corners, axis=0) for point in controls]
    while len(level) > 1:
        level = [(1 - times) * left + times * right for left, right in pairwise(level)]
    return [(float(x), float(y)) for x, y in level[0]]


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the (2, 2) matrix that turns clockwise on the screen by ``angle`` radians."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return np.array([[cos, -sin], [sin, cos]])
