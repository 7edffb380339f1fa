"""Image grid of originals, reconstructions and samples, for visual inspection."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from viewgen.picture import tile

__all__ = ["quality_grid"]

NUM_COLUMNS = 16
MARGIN, HEADER = 8, 20
MIN_TILE = 48
INK, FAINT = (32, 32, 32), (120, 120, 120)


def quality_grid(sections: Sequence[tuple[str, np.ndarray[Any, Any]]], *, title: str) -> np.ndarray[Any, Any]:
    """Draw named groups of images, one below the other.

    Args:
        sections: (name, images) per group, with storage images, uint8 `(N, 3, H, W)`.
        title: title in the first line.

    Returns:
        image, uint8 `(height, width, 3)`.
    """
    scale = max(1, -(-MIN_TILE // sections[0][1].shape[-1]))
    parts = [tile(images, NUM_COLUMNS, scale=scale) for _, images in sections]
    width = 2 * MARGIN + max(part.shape[1] for part in parts)
    height = 2 * MARGIN + HEADER + sum(part.shape[0] + HEADER for part in parts)
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(13))
    top = MARGIN + HEADER
    for (name, _), part in zip(sections, parts, strict=True):
        draw.text((MARGIN, top + 4), name, FAINT, ImageFont.load_default(11))
        canvas.paste(Image.fromarray(part), (MARGIN, top + HEADER))
        top += HEADER + part.shape[0]
    return np.asarray(canvas)
