"""Pictures of image batches: tiles in a grid, as PNG."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from viewgen.files import write_atomically

__all__ = ["tile", "write_png"]


def tile(
    images: np.ndarray[Any, Any], num_columns: int, *, gap: int = 2, scale: int = 1
) -> np.ndarray[Any, Any]:
    """Arrange storage images in a grid, row by row.

    Args:
        images: uint8 `(N, 3, H, W)`.
        num_columns: images in a row.
        gap: white pixels between them.
        scale: whole-number enlargement.

    Returns:
        uint8 `(height, width, 3)`.
    """
    images = images.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = images.shape[2] + gap, images.shape[3] + gap
    num_rows = -(-len(images) // num_columns)
    canvas = np.full((num_rows * height + gap, num_columns * width + gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = (index // num_columns) * height + gap, (index % num_columns) * width + gap
        canvas[top : top + image.shape[1], left : left + image.shape[2]] = image.transpose(1, 2, 0)
    return canvas


def write_png(pixels: np.ndarray[Any, Any], path: str | Path) -> None:
    """Write uint8 pixels `(height, width, 3)` to `path`, atomically."""
    write_atomically(path, lambda file: Image.fromarray(pixels).save(file, format="PNG"))
