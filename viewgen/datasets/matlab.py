"""MATLAB files of structures, looked at before SciPy reads them.

A file of a few kilobytes can inflate to gigabytes, claim arrays of 10¹² elements, or nest cells so deep that
the recursion of the reader ends the process. So the arrays of a file are walked first, without recursion:
what is inflated has a bound, and so has the depth, and no array has more elements than bytes.

References:
    MAT-File Format, The MathWorks, 2024,
    https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewgen.errors import CorruptDataError
from viewgen.files import open_regular

__all__ = ["read_structures"]

MOST_BYTES = 512 << 20
"""Largest size of a file, and of all its variables when they are inflated."""

MOST_DEPTH = 32
MOST_BLANKS = 1 << 20
MOST_AXES = 32
PIECE_BYTES = 1 << 20
HEADER_BYTES = 128
# kinds of elements, and classes of arrays
MATRIX, COMPRESSED = 14, 15
NUMBERS = frozenset((*range(1, 8), 9, 12, 13))
WHOLE, FLAGS, NAMES, LETTERS = (
    frozenset((5, 6)),
    frozenset((6,)),
    frozenset((1, 16)),
    frozenset((1, 2, 4, 16, 17, 18)),
)
CELL, STRUCTURE, TEXT = 1, 2, 4
PLAIN = frozenset((TEXT, *range(6, 16)))  # text, floating point, whole numbers


def read_structures(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file of version 5: structures as objects, arrays without axes of 1.

    Raises:
        CorruptDataError: it is none, is damaged, or beyond the bounds.
    """
    from scipy.io import loadmat

    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    try:
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        _check(data)
        found: dict[str, Any] = loadmat(io.BytesIO(data), struct_as_record=False, squeeze_me=True)
    except struct.error as error:
        raise CorruptDataError(f"{path} is no whole MATLAB file of version 5: it ends too early") from error
    except Exception as error:  # those of SciPy's reader are of many kinds
        raise CorruptDataError(f"{path} cannot be read as a MATLAB file of version 5: {error}") from error
    return found


def _check(data: bytes) -> None:
    """Raise an error if reading would take more than a file of this kind should."""
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER_BYTES - 2 : HEADER_BYTES])
    # a zero in front marks version 4
    if order is None or 0 in data[:4] or struct.unpack_from(f"{order}H", data, HEADER_BYTES - 4)[0] != 0x100:
        raise ValueError("it has no header of one")
    place, left = HEADER_BYTES, MOST_BYTES
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        variable = data[place : place + 8 + size]
        place += 8 + size
        if kind == COMPRESSED:
            variable = _inflated(variable[8:], left)
        left -= len(variable)
        _Walk(variable, order).whole()


def _inflated(packed: bytes, most: int) -> bytes:
    """Return the contents of a zlib stream; too many are refused before any are kept."""
    if sum(map(len, _pieces(packed, most))) > most:
        raise ValueError(f"it inflates to more than {MOST_BYTES >> 20} MiB")
    return b"".join(_pieces(packed, most))


def _pieces(packed: bytes, most: int) -> Iterator[bytes]:
    """Yield the contents of a zlib stream, up to the piece in which they exceed `most` bytes."""
    stream = zlib.decompressobj()
    while most >= 0 and (piece := stream.decompress(packed, PIECE_BYTES)):
        packed = stream.unconsumed_tail
        most -= len(piece)
        yield piece


class _Walk:
    """A walk through the elements of a variable, in the order in which SciPy reads them."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.place = data, 0
        self._pair = struct.Struct(f"{order}II")
        self._words = [struct.Struct(f"{order}{count}i") for count in range(MOST_AXES + 1)]

    def whole(self) -> None:
        """Walk through an array and whatever it holds."""
        pending = [1]  # arrays still to come, per level
        while pending:
            if not pending[-1]:
                pending.pop()
                continue
            pending[-1] -= 1
            if held := self._array():
                pending.append(held)
                if len(pending) > MOST_DEPTH:
                    raise ValueError(f"its arrays lie more than {MOST_DEPTH} deep in each other")

    def _array(self) -> int:
        """Walk through an array up to the arrays that it holds; return their number."""
        kind, size = self._pair.unpack_from(self.data, self.place)
        if kind != MATRIX:
            raise ValueError(f"an element of kind {kind} instead of an array")
        self.place += 8
        if not size:
            return 0
        start, _ = self._element(FLAGS)
        flags = self._words[1].unpack_from(self.data, start)[0]
        start, size = self._element(WHOLE)
        if size % 4 or not 8 <= size <= 4 * MOST_AXES:
            raise ValueError(f"an array with {size / 4:g} axes; expected 2 to {MOST_AXES}")
        shape = self._words[size // 4].unpack_from(self.data, start)
        self._element(NAMES)
        elements, kind = math.prod(shape), flags & 0xFF
        if min(shape, default=0) < 0:
            raise ValueError("an array with a negative side")
        if kind in PLAIN:
            expected = LETTERS if kind == TEXT else NUMBERS
            _, size = self._element(expected)
            if kind == TEXT and not size and elements <= MOST_BLANKS:
                return 0  # MATLAB writes blanks so
            if flags & 0x800:  # imaginary parts
                self._element(expected)
            return self._fitting(0, elements, size)
        if kind == CELL:
            return self._fitting(elements, 8 * elements, len(self.data) - self.place)
        if kind == STRUCTURE:
            start, _ = self._element(WHOLE)
            length = self._words[1].unpack_from(self.data, start)[0]
            _, size = self._element(NAMES)
            fields = size // length if length > 0 else 0
            room = len(self.data) - self.place if fields else 8
            return self._fitting(elements * fields, 8 * elements * max(fields, 1), room)
        raise ValueError(f"an array of the class {kind}; expected numbers, text, cells and structures")

    def _element(self, expected: frozenset[int]) -> tuple[int, int]:
        """Step over an element of an expected kind; return the start and the size of its contents.

        SciPy ends the process at numbers of a kind that it does not know.
        """
        kind, size = self._pair.unpack_from(self.data, self.place)
        if kind >> 16:  # a small one: size and kind share a word, the contents are in the other
            start, size = self.place + 4, kind >> 16
            kind &= 0xFFFF
            self.place += 8
        else:
            start = self.place + 8
            self.place = start + -(-size // 8) * 8
        if kind not in expected:
            raise ValueError(f"an element of kind {kind} where one of {sorted(expected)} belongs")
        if start + size > len(self.data):
            raise ValueError("it ends within an array")
        return start, size

    def _fitting(self, result: int, needed: int, room: int) -> int:
        if needed > room:
            raise ValueError(f"an array claims {needed} bytes or more, and has {max(room, 0)}")
        return result
