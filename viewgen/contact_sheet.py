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
MARGIN, GAP, HEADER, CAPTION, LINE = 10, 4, 40, 15, 15
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
        title: heading, broken into lines where it is wider than the picture.
        row_names: name of each row, in lines, for example label and index of the image.
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
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    name_width = max(74, *(6 + int(small.getlength(line)) for name in row_names for line in name.split("\n")))
    width = 2 * MARGIN + name_width + (lead + num_views) * (tile + GAP) + 2 * GAP
    heading = _in_lines(title, font, width - 2 * MARGIN)
    header = HEADER + LINE * heading.count("\n")
    height = MARGIN + header + num_rows * (tile + CAPTION + GAP) + MARGIN
    canvas = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    draw.multiline_text((MARGIN, MARGIN), heading, INK, font)

    def column(index: int) -> int:
        # a wider gap sets the image and its reconstruction apart from the views
        return int(MARGIN + name_width + index * (tile + GAP) + (2 * GAP if index >= lead else 0))

    heads = ["image", *(["inverted"] if lead == 2 else []), *(f"view {k + 1}" for k in range(num_views))]
    for index, head in enumerate(heads):
        draw.text((column(index), MARGIN + header - 16), head, FAINT, small)
    for row in range(num_rows):
        top = MARGIN + header + row * (tile + CAPTION + GAP)
        space = tile - LINE * (row_names[row].count("\n") + 1)
        draw.multiline_text((MARGIN, top + max(0, space // 2)), row_names[row], INK, small)
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
    """Return a label's class; of several attributes a line for each of the first three."""
    if np.ndim(label):
        named = zip(dataset.attributes, np.atleast_1d(label).tolist(), strict=False)
        return "\n".join(f"{attribute.name} {value}"[:16] for attribute, value in [*named][:3])
    if int(label) < 0 or int(label) >= len(dataset.class_names):
        return str(label.tolist())[:11]
    return str(dataset.class_names[int(label)])[:11]


def _in_lines(text: str, font: Any, width: int) -> str:
    """Return a text in lines that fit, broken between words, or within one that is too long."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and font.getlength(longer) > width:
            lines.append(line)
            longer = word
        while font.getlength(longer) > width:
            fitting = next(
                n for n in range(len(longer), 0, -1) if font.getlength(longer[:n]) <= width or n == 1
            )
            lines.append(longer[:fitting])
            longer = longer[fitting:]
        line = longer
    return "\n".join([*lines, line])
