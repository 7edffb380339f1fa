"""IDX files, the format of MNIST: two zero bytes, type, number of axes, big-endian sizes, data."""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from viewgen.datasets.archive import read_maybe_gzip
from viewgen.errors import CorruptDataError

__all__ = ["read_idx"]

UINT8 = 0x08
MAX_BYTES = 1 << 30


def read_idx(path: Path, *, num_axes: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, plain or gzip-compressed.

    Args:
        path: the file.
        num_axes: the number of axes expected: 3 for images, 1 for labels.

    Returns:
        The array, uint8, with `num_axes` axes.

    Raises:
        CorruptDataError: damaged, of another type, or its size is not what its header says.
    """
    data = read_maybe_gzip(path, cap=MAX_BYTES)
    expected = bytes([0, 0, UINT8, num_axes])
    if data[:4] != expected or len(data) < 4 + 4 * num_axes:
        raise CorruptDataError(
            f"{path} is no IDX file of bytes with {num_axes} axes: it begins {data[:4].hex()}"
        )
    shape = struct.unpack_from(f">{num_axes}I", data, 4)
    payload = len(data) - 4 - 4 * num_axes
    if math.prod(shape) != payload:
        raise CorruptDataError(f"{path} holds {payload} bytes, its header says {shape}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
