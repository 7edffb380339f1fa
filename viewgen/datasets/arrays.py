"""Arrays of a NumPy ``.npz`` file that somebody else wrote: no more is read than is there, and fits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from viewgen.datasets.archive import check_directory
from viewgen.errors import CorruptDataError, DataError, OutOfMemoryError, ViewgenError

__all__ = ["array_header", "opened_arrays", "read_array"]

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@contextmanager
def opened_arrays(file: IO[bytes], name: str) -> Iterator[Any]:
    """Open the arrays of a file; whatever fails while they are read is told as damage.

    Args:
        file: the file, which can seek.
        name: its name in messages.

    Raises:
        DataError: it is one array, without a name.
        CorruptDataError: it is no ``.npz`` file, is damaged, or holds objects.
    """
    try:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            raise DataError(
                f"{name} is one array without a name; expected an .npz file, as "
                "numpy.savez('name.npz', images=images, labels=labels) writes it"
            )
        check_directory(file, name)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (ViewgenError, MemoryError):
        raise
    except Exception as error:  # those of NumPy, zipfile and zlib are of many kinds
        raise CorruptDataError(
            f"{name} is no .npz file, is damaged, or holds objects ({type(error).__name__}: {error})"
        ) from error


def array_header(arrays: Any, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and type of an array without reading its values."""
    with arrays.zip.open(f"{key}.npy") as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{key} is written as version {version} of its format; expected 1.0 or 2.0")
        shape, _, dtype = _HEADERS[version](file)
    return shape, dtype


def read_array(arrays: Any, key: str, name: str) -> NDArray[Any]:
    """Return an array, whose header may claim more than there is, or than memory holds.

    Args:
        arrays: what `opened_arrays` gives.
        key: name of the array.
        name: name of the file in messages.

    Raises:
        CorruptDataError: there are fewer bytes than its header claims, or objects.
        OutOfMemoryError: it does not fit into the free memory.
    """
    from viewgen.memory import available_bytes

    shape, dtype = array_header(arrays, key)
    if dtype.hasobject:
        raise CorruptDataError(f"{name}: {key} holds objects of Python; write text or numbers")
    claimed, there = math.prod(shape) * dtype.itemsize, arrays.zip.getinfo(f"{key}.npy").file_size
    if claimed > there:
        raise CorruptDataError(f"{name} is damaged: {key} claims {claimed:,} bytes and has {there:,}")
    free = available_bytes()  # 0 where that is not known
    if 0 < free < claimed:
        raise OutOfMemoryError(
            f"{name}: {key} needs {claimed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; "
            "divide it into several files"
        )
    found: NDArray[Any] = arrays[key]
    return found
