"""Encoded pictures (JPEG, PNG, …) to uint8 arrays."""

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from viewgen.errors import CorruptDataError, DataError

__all__ = ["PICTURE_SUFFIXES", "decode_blocks", "decode_picture"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_PIXELS = 100_000_000
BLOCK_IMAGES = 512

Item = TypeVar("Item")


def decode_picture(data: bytes, name: str, image_size: int | None) -> NDArray[np.uint8]:
    """Decode one picture to RGB.

    Args:
        data: the file's content.
        name: what to call it in errors.
        image_size: scale the shorter side to this many pixels and cut out the centre; None keeps the picture.

    Returns:
        `(3, H, W)`, uint8. Transparency is dropped, the camera's orientation mark is obeyed.

    Raises:
        CorruptDataError: it cannot be decoded, or is larger than any picture should be.
        DataError: it has more than 8 bits per channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise CorruptDataError(
                    f"{name} claims {picture.width}×{picture.height} pixels; that is no picture"
                )
            picture.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as e:
        if isinstance(e, CorruptDataError):
            raise
        raise CorruptDataError(f"{name} cannot be decoded as a picture: {e}. Replace or remove it.") from e
    if picture.mode.startswith(("I", "F")):
        raise DataError(
            f"{name} has more than 8 bits per channel (mode {picture.mode}); convert it to 8-bit RGB first"
        )
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    if image_size is not None and picture.size != (image_size, image_size):
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)


def decode_blocks(
    items: Iterable[Item], decode: Callable[[Item], NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8]]:
    """Yield `decode(item)` of all items, in order, in blocks `(B, 3, H, W)`; decodes on a few threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        remaining = iter(items)
        while block := list(islice(remaining, BLOCK_IMAGES)):
            yield np.stack(list(pool.map(decode, block)))
