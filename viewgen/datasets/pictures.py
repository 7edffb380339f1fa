"""Encoded pictures (JPEG, PNG, …) to uint8 arrays."""

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from viewgen.errors import CorruptDataError, DataError, ViewgenError
from viewgen.files import open_regular

__all__ = ["PICTURE_SUFFIXES", "decode_blocks", "decode_picture", "picture_size"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# Below Pillow's own alarm, so that ours is the message.
MAX_PIXELS = 80_000_000
BLOCK_IMAGES = 64
# What Pillow's readers raise on damaged or hostile files.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

Item = TypeVar("Item")


def decode_picture(data: bytes, name: str, image_size: int | None) -> NDArray[np.uint8]:
    """Decode one picture to RGB.

    Args:
        data: the file's content.
        name: name of the picture in error messages.
        image_size: length in pixels to which the shorter side is scaled before the centre is cut out;
            None keeps the picture.

    Returns:
        `(3, H, W)`, uint8. Transparency is dropped, the camera's orientation mark is obeyed.

    Raises:
        CorruptDataError: it cannot be decoded, or is larger than any picture should be.
        DataError: it has more than 8 bits per channel.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise CorruptDataError(
                f"{name} claims {picture.width}×{picture.height} pixels; that is no picture"
            )
        if picture.mode.startswith(("I", "F")):
            raise DataError(
                f"{name} has more than 8 bits per channel (mode {picture.mode}); make it 8-bit RGB first"
            )
        picture = ImageOps.exif_transpose(picture)
        picture.info.pop("transparency", None)
        picture = picture.convert("RGB")
    except ViewgenError:
        raise
    except DECODER_ERRORS as error:
        raise CorruptDataError(
            f"{name} cannot be decoded as a picture: {error}. Replace or remove it."
        ) from error
    if image_size is not None and picture.size != (image_size, image_size):
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)


def picture_size(file: Path) -> tuple[int, int] | None:
    """Return width and height from the header of a file; None if it has none that can be read."""
    try:
        with open_regular(file) as opened, Image.open(opened, formats=FORMATS) as picture:
            return picture.width, picture.height
    except (ViewgenError, *DECODER_ERRORS):
        return None


def decode_blocks(
    items: Iterable[Item], decode: Callable[[Item], NDArray[np.uint8] | None]
) -> Iterator[NDArray[np.uint8]]:
    """Yield `decode(item)` of all items in order, in blocks `(B, 3, H, W)`; a few threads decode.

    Items for which `decode` returns None are left out.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        remaining = iter(items)
        while block := list(islice(remaining, BLOCK_IMAGES)):
            decoded = [image for image in pool.map(decode, block) if image is not None]
            if decoded:
                yield np.stack(decoded)
