"""Plane patterns with period about 1, as signed distances: negative where there is paint."""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.shapes import box_distance, polygon_distance

__all__ = ["TABLE_SIZE", "TEXTURES", "texture_distance"]

Array = NDArray[np.float32]

TEXTURES = ("solid", "stripes", "grid", "hexgrid", "dots", "noise", "triangles", "zigzags", "rain", "pluses")
TABLE_SIZE = 24
PAINT, BARE = np.float32(-1), np.float32(1)
HALF, TWO, CELLS, FALL = np.float32(0.5), np.float32(2), np.float32(3), np.float32(1.5)


def texture_distance(name: str, u: Array, v: Array, table: Array) -> Array:
    """Return the signed distance of `(u, v)` to the paint of one of `TEXTURES`.

    Args:
        name: the texture.
        u: horizontal coordinates in periods, `(B, H, W)`, float32.
        v: vertical coordinates, of the same shape.
        table: uniform numbers in [0, 1), `(B, TABLE_SIZE, TABLE_SIZE)`, the random part of noise and rain.
    """
    if name == "solid":
        return np.full_like(u, PAINT)
    if name == "stripes":
        return _line(v, 0.25)
    if name == "grid":
        return np.minimum(_line(u, 0.17), _line(v, 0.17))
    if name == "hexgrid":
        return _hexagon_border(u, v) - np.float32(0.14)
    if name == "dots":
        x, y = _staggered(u, v)
        return np.sqrt(x * x + y * y) - np.float32(0.33)
    if name == "noise":
        return np.where(_look_up(table, u * CELLS, v * CELLS) < 0.5, PAINT, BARE)
    if name == "triangles":
        return polygon_distance(_cell(u), _cell(v), [(0, -0.42), (0.45, 0.38), (-0.45, 0.38)])
    if name == "zigzags":
        # A steep flank is narrower across than along v; the factor makes the distance that across.
        flank = np.abs(_cell(u * HALF)) * TWO
        return _line(v + flank, 0.25) * np.float32(1 / sqrt(2))
    if name == "rain":
        shift = _look_up(table, u * TWO, np.zeros_like(u))
        return box_distance(_cell(u * TWO) / TWO, _cell(v / FALL + shift) * FALL, 0.12, 0.5)
    x, y = _staggered(u, v)
    return np.minimum(box_distance(x, y, 0.4, 0.13), box_distance(x, y, 0.13, 0.4))


def _cell(t: Array) -> Array:
    """Return the position within a unit cell, −½ to ½."""
    return t - np.floor(t) - HALF


def _line(t: Array, half_width: float) -> Array:
    return np.abs(_cell(t)) - np.float32(half_width)


def _staggered(u: Array, v: Array) -> tuple[Array, Array]:
    """Return positions within unit cells whose odd rows are shifted by half a cell."""
    return _cell(u + HALF * (np.floor(v) % TWO)), _cell(v)


def _hexagon_border(u: Array, v: Array) -> Array:
    """Return the distance to the border of a honeycomb whose cells are 1 wide."""
    height = np.float32(sqrt(3))
    nearest = np.full_like(u, np.inf)
    for offset in (np.float32(0), HALF):
        # Centres form two rectangular lattices; the border lies half-way between neighbouring centres.
        x, y = np.abs(_cell(u + offset)), np.abs(_cell(v / height + offset) * height)
        nearest = np.minimum(nearest, np.maximum(x, x * HALF + y * height * HALF))
    return HALF - nearest


def _look_up(table: Array, column: Array, row: Array) -> Array:
    """Return the number of the unit cell that a position lies in; cells repeat every TABLE_SIZE."""
    batch = np.arange(len(table))[:, None, None]
    found: Array = table[
        batch, np.floor(row).astype(int) % TABLE_SIZE, np.floor(column).astype(int) % TABLE_SIZE
    ]
    return found
