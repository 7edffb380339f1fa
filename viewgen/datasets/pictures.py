"""Encoded pictures (JPEG, PNG, …) to uint8 arrays."""

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from viewgen.errors import CorruptDataError, DataError, ViewgenError
from viewgen.files import open_regular

__all__ = [
    "MAX_FILE_BYTES",
    "PICTURE_SUFFIXES",
    "array_picture",
    "array_size",
    "decode_blocks",
    "decode_picture",
    "picture_size",
]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_FILE_BYTES = 256 << 20
PICTURE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
# Below Pillow's own alarm, so that ours is the message.
MAX_PIXELS = 80_000_000
BLOCK_IMAGES = 64
CHANNELS = (1, 3, 4)
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
            f"{name} cannot be decoded as a picture: {_told(error)}. Replace or remove it."
        ) from error
    if image_size is not None and picture.size != (image_size, image_size):
        picture = ImageOps.fit(picture, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)


def picture_size(picture: Path | bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a file, or of its content; None if it cannot be read."""
    try:
        with (
            io.BytesIO(picture) if isinstance(picture, bytes) else open_regular(picture) as opened,
            Image.open(opened, formats=FORMATS) as found,
        ):
            return found.width, found.height
    except (ViewgenError, *DECODER_ERRORS):
        return None


def array_size(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return width and height of pixels of a shape that `array_picture` takes; None for another shape."""
    if len(shape) == 2:
        height, width = shape
    elif len(shape) == 3:
        height, width = shape[1:] if shape[0] in CHANNELS else shape[:2]
    else:
        return None
    return width, height


def array_picture(array: NDArray[Any], name: str, image_size: int | None) -> NDArray[np.uint8]:
    """Return an array of pixels as RGB.

    Args:
        array: `(H, W)`, `(H, W, C)` or `(C, H, W)`, C 1, 3 or 4; uint8, or floating point in [0, 1].
        name: name of the picture in error messages.
        image_size: side of the result in pixels, see `decode_picture`.

    Returns:
        `(3, H, W)`, uint8. Transparency is dropped.

    Raises:
        DataError: another shape, type or range.
    """
    pixels = array
    if pixels.dtype.kind == "f":
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{name} has pixels outside of 0 … 1; expected uint8, or numbers in that range")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
            raise DataError(f"{name} has pixels of {pixels.dtype}; expected uint8, or numbers in 0 … 1")
        pixels = pixels.astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[0] not in CHANNELS:
        pixels = pixels.transpose(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in CHANNELS:
        raise DataError(
            f"{name} has shape {array.shape}; expected (H, W), (H, W, C) or (C, H, W), C 1, 3 or 4"
        )
    pixels = np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels[:3]
    if image_size is not None and pixels.shape[1:] != (image_size, image_size):
        fitted = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        fitted = ImageOps.fit(fitted, (image_size, image_size), Image.Resampling.BICUBIC)
        pixels = np.asarray(fitted).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels)


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


def _told(error: BaseException) -> str:
    """Return a decoder's words, without the object in memory that it was given."""
    return "it is in no known format" if "<_io.BytesIO" in str(error) else str(error)
