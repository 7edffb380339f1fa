"""Plane figures as signed distances: negative inside, positive outside, in the units of their coordinates.

The ten shapes fill the square [−1, 1]², y pointing down.
"""

from collections.abc import Sequence
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPES", "box_distance", "polygon_distance", "shape_distance"]

Array = NDArray[np.float32]
Points = Sequence[tuple[float, float]]


def polygon_distance(x: Array, y: Array, points: Points) -> Array:
    """Return the signed distance of `(x, y)` to a simple polygon.

    Args:
        x: horizontal coordinates, any shape, float32.
        y: vertical coordinates, of the same shape.
        points: corners in order, either way round.
    """
    squared = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
        ex, ey = bx - ax, by - ay
        dx, dy = x - np.float32(ax), y - np.float32(ay)
        along = np.clip((dx * ex + dy * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (dx - ex * along) ** 2 + (dy - ey * along) ** 2)
        if ey:
            # An upward ray from the point crosses this edge.
            inside ^= ((dy >= 0) != (y >= by)) & (dx < dy * (ex / ey))
    distance = np.sqrt(squared)
    return np.where(inside, -distance, distance)


def box_distance(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    """Return the signed distance to an upright rectangle about the origin (a lower bound off its corners)."""
    return np.maximum(np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height))


def _regular(num_corners: int, inner_radius: float | None = None) -> Points:
    """Return a regular polygon with a corner on top, or a star if `inner_radius` is given."""
    radii = [1.0] if inner_radius is None else [1.0, inner_radius]
    steps = num_corners * len(radii)
    corners = ((radii[step % len(radii)], 2 * pi * step / steps) for step in range(steps))
    return [(radius * sin(angle), -radius * cos(angle)) for radius, angle in corners]


THIRD = 1 / 3
POLYGONS: dict[str, Points] = {
    "triangle": [(0, -1), (1, 1), (-1, 1)],
    "plus": [
        (-THIRD, -1), (THIRD, -1), (THIRD, -THIRD), (1, -THIRD), (1, THIRD), (THIRD, THIRD),
        (THIRD, 1), (-THIRD, 1), (-THIRD, THIRD), (-1, THIRD), (-1, -THIRD), (-THIRD, -THIRD),
    ],
    "tee": [
        (-1, -1), (1, -1), (1, -THIRD), (THIRD, -THIRD),
        (THIRD, 1), (-THIRD, 1), (-THIRD, -THIRD), (-1, -THIRD),
    ],
    "rhombus": [(0, -1), (1, -1), (0, 1), (-1, 1)],
    "pentagon": _regular(5),
    "star": _regular(5, inner_radius=0.4),
    "trapezoid": [(-1, -0.8), (1, -0.8), (0.4, 0.8), (-0.4, 0.8)],
}  # fmt: skip

SHAPES = (
    "triangle",
    "square",
    "plus",
    "circle",
    "tee",
    "rhombus",
    "pentagon",
    "star",
    "fivesquare",
    "trapezoid",
)


def shape_distance(name: str, x: Array, y: Array) -> Array:
    """Return the signed distance of `(x, y)` to one of `SHAPES`."""
    if name == "circle":
        return np.sqrt(x * x + y * y) - np.float32(1)
    if name == "square":
        return box_distance(x, y, 1, 1)
    if name == "fivesquare":
        middle = box_distance(x, y, THIRD, THIRD)
        corners = box_distance(
            np.abs(x) - np.float32(2 * THIRD), np.abs(y) - np.float32(2 * THIRD), THIRD, THIRD
        )
        return np.minimum(middle, corners)
    return polygon_distance(x, y, POLYGONS[name])
