"""Contact sheet: a picture of cached views, for visual inspection before a training.

Each row shows an image, its reconstruction where there is one, and its views with their distances.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from viewgen.picture import write_png
from viewgen.role_pictures import resized

__all__ = ["contact_sheet", "write_contact_sheet"]

MIN_TILE = 64
MARGIN, GAP, HEADER, CAPTION = 10, 4, 40, 15
INK, FAINT, OFF = (32, 32, 32), (120, 120, 120), (190, 60, 30)


def contact_sheet(
    originals: NDArray[np.uint8],
    reconstructions: NDArray[np.uint8] | None,
    views: NDArray[np.uint8],
    distances: NDArray[np.float32],
    *,
    title: str,
    row_names: list[str],
    epsilon_boundary: float | None = None,
    tolerance: float = 0.05,
) -> NDArray[np.uint8]:
    """Draw a contact sheet.

    Args:
        originals: `(R, 3, H, W)`; scaled to the size of the views.
        reconstructions: `(R, 3, H, W)`, or None.
        views: `(R, V, 3, H, W)`.
        distances: distances of the views from their anchors, `(R, V)`; NaN where unknown.
        title: first line.
        row_names: name of each row, for example label and index of the image.
        epsilon_boundary: ε₁, or None.
        tolerance: |d − ε₁| in the encoder's space, above which a distance d is coloured.

    Returns:
        uint8 `(height, width, 3)`.
    """
    num_rows, num_views, _, side, _ = views.shape
    originals = resized(originals, side)
    scale = max(1, -(-MIN_TILE // side))
    tile = side * scale
    lead = 1 if reconstructions is None else 2
    name_width = 74
    width = 2 * MARGIN + name_width + (lead + num_views) * (tile + GAP) + 2 * GAP
    height = MARGIN + HEADER + num_rows * (tile + CAPTION + GAP) + MARGIN
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    draw.text((MARGIN, MARGIN), title, INK, font)

    def column(index: int) -> int:
        # a wider gap sets the image and its reconstruction apart from the views
        return int(MARGIN + name_width + index * (tile + GAP) + (2 * GAP if index >= lead else 0))

    heads = ["image", *(["inverted"] if lead == 2 else []), *(f"view {k + 1}" for k in range(num_views))]
    for index, head in enumerate(heads):
        draw.text((column(index), MARGIN + HEADER - 16), head, FAINT, small)
    for row in range(num_rows):
        top = MARGIN + HEADER + row * (tile + CAPTION + GAP)
        draw.text((MARGIN, top + tile // 2 - 7), row_names[row], INK, small)
        lead_tiles = [originals[row]] if reconstructions is None else [originals[row], reconstructions[row]]
        for index, pixels in enumerate([*lead_tiles, *views[row]]):
            enlarged = pixels.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
            canvas.paste(Image.fromarray(enlarged), (column(index), top))
        for view, distance in enumerate(distances[row]):
            if np.isnan(distance):
                continue
            off = epsilon_boundary is not None and abs(distance - epsilon_boundary) > tolerance
            draw.text(
                (column(lead + view), top + tile + 1), f"d {distance:.3f}", OFF if off else FAINT, small
            )
    return np.asarray(canvas)


def write_contact_sheet(
    path: str | Path,
    *,
    dataset: Any,
    rows: NDArray[np.int64],
    views: NDArray[np.uint8],
    distances: NDArray[np.float32],
    reconstructions: NDArray[np.uint8] | None,
    method: str,
    epsilon_boundary: float | None,
) -> None:
    """Write the contact sheet of some images of a cache as PNG, atomically.

    Args:
        path: path of the picture.
        dataset: the `ImageDataset` that the cache was made from.
        rows: source indices of the images, `(R,)`.
        views: views, `(R, V, 3, H, W)`, as for `contact_sheet`.
        distances: distances of the views from their anchors, `(R, V)`, as for `contact_sheet`.
        reconstructions: reconstructions, `(R, 3, H, W)`, or None, as for `contact_sheet`.
        method: name of the view method.
        epsilon_boundary: ε₁, or None.
    """
    labels = dataset.labels(rows)
    names = [f"{_label_name(dataset, label)}\n#{row}" for label, row in zip(labels, rows, strict=True)]
    # Pillow's built-in font has no Greek letters
    target = (
        "" if epsilon_boundary is None else f" · d: distance from the anchor, wanted {epsilon_boundary:.3g}"
    )
    pixels = contact_sheet(
        dataset.images(rows),
        reconstructions,
        views,
        distances,
        title=f"{dataset.name} ({dataset.split}) · {method}{target}",
        row_names=names,
        epsilon_boundary=epsilon_boundary,
    )
    write_png(pixels, path)


def _label_name(dataset: Any, label: NDArray[np.int64]) -> str:
    if np.ndim(label) or int(label) < 0 or int(label) >= len(dataset.class_names):
        return str(label.tolist())[:11]
    return str(dataset.class_names[int(label)])[:11]
