"""The bytes of a cache's shard objects.

An object is either one chunk, ``data ‖ crc32c(data)``, or a shard of the ``sharding_indexed`` codec::

    chunk 0 ‖ crc32c ‖ chunk 1 ‖ crc32c ‖ … ‖ index ‖ crc32c(index)

with ``index`` a (chunks, 2) table of little-endian uint64 (offset, length including the checksum). Chunks
hold raw little-endian rows, so a row's position in the object follows from its number alone. Rows after the
last image of a chunk are padding (the fill value); chunks of padding only are absent, marked by 2⁶⁴ − 1 in
the index. Zarr specification 3.0, "Sharding codec" and "crc32c checksum codec".
"""

from typing import Any

import google_crc32c
import numpy as np

from viewgen.errors import CorruptDataError
from viewgen.store.spec import ArrayLayout

__all__ = [
    "CHECKSUM_BYTES",
    "chunk_checksums",
    "chunk_slice",
    "crc32c",
    "decode_object",
    "encode_object",
    "index_bytes",
    "num_chunks",
    "object_bytes",
    "row_offsets",
]

CHECKSUM_BYTES = 4
_ABSENT = np.uint64(2**64 - 1)


def crc32c(data: Any) -> bytes:
    """Return the four checksum bytes of a bytes-like object or a contiguous uint8 array."""
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def num_chunks(layout: ArrayLayout, num_rows: int) -> int:
    """Return the number of chunks stored in an object with `num_rows` rows."""
    return 1 if layout.chunk_rows is None else -(-num_rows // layout.chunk_rows)


def chunk_slice(layout: ArrayLayout, chunk: int) -> slice:
    """Return the byte slice of chunk number `chunk` in its object, without its checksum."""
    length: int = (layout.chunk_rows or layout.shard_rows) * layout.row_bytes
    start = chunk * (length + CHECKSUM_BYTES)
    return slice(start, start + length)


def row_offsets(layout: ArrayLayout, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the byte offsets of `rows` (numbered from the shard's first row) in their object."""
    chunks = rows // (layout.chunk_rows or layout.shard_rows)
    offsets: np.ndarray[Any, Any] = rows * layout.row_bytes + chunks * CHECKSUM_BYTES
    return offsets


def index_bytes(layout: ArrayLayout, num_rows: int) -> bytes:
    """Return the index of a shard with `num_rows` rows, with its checksum; empty for a one-chunk object."""
    if layout.chunk_rows is None:
        return b""
    stored = num_chunks(layout, num_rows)
    length = layout.chunk_rows * layout.row_bytes + CHECKSUM_BYTES
    table = np.full((layout.shard_rows // layout.chunk_rows, 2), _ABSENT, "<u8")
    table[:stored, 0] = np.arange(stored, dtype=np.uint64) * np.uint64(length)
    table[:stored, 1] = length
    data = table.tobytes()
    return data + crc32c(data)


def object_bytes(layout: ArrayLayout, num_rows: int) -> int:
    """Return the size of an object with `num_rows` rows."""
    last = chunk_slice(layout, num_chunks(layout, num_rows) - 1)
    return int(last.stop) + CHECKSUM_BYTES + len(index_bytes(layout, num_rows))


def encode_object(layout: ArrayLayout, rows: np.ndarray[Any, Any]) -> bytes:
    """Encode the object of one shard.

    Args:
        layout: layout of the array.
        rows: `(R, *layout.row_shape)` of the layout's dtype, 1 ≤ R ≤ `layout.shard_rows`.
    """
    stored = num_chunks(layout, len(rows))
    chunk_rows = layout.chunk_rows or layout.shard_rows
    padded = np.full((stored * chunk_rows, *layout.row_shape), layout.fill, layout.dtype)
    padded[: len(rows)] = rows
    parts: list[Any] = []
    for chunk in padded.reshape(stored, -1).view(np.uint8):
        parts += [chunk.data, crc32c(chunk)]
    return b"".join([*parts, index_bytes(layout, len(rows))])


def chunk_checksums(layout: ArrayLayout, data: bytes, num_rows: int) -> bytes:
    """Return the stored checksums of an object's chunks, one after another, four bytes each."""
    ends = [chunk_slice(layout, chunk).stop for chunk in range(num_chunks(layout, num_rows))]
    return b"".join(data[end : end + CHECKSUM_BYTES] for end in ends)


def decode_object(layout: ArrayLayout, data: bytes, num_rows: int, place: str) -> np.ndarray[Any, Any]:
    """Decode the object of one shard and check its size, index and checksums.

    Args:
        layout: layout of the array.
        data: the object.
        num_rows: number of rows of the shard.
        place: name of the object in messages.

    Returns:
        `(num_rows, *layout.row_shape)`, writable.

    Raises:
        CorruptDataError: the object is not a possible result of `encode_object`.
    """
    expected = object_bytes(layout, num_rows)
    if len(data) != expected:
        raise CorruptDataError(f"{place} has {len(data)} bytes, expected {expected}")
    index = index_bytes(layout, num_rows)
    if index and data[-len(index) :] != index:
        raise CorruptDataError(f"{place}: the shard index is not the one of {num_rows} rows")
    buffer = np.frombuffer(data, np.uint8)
    stored = num_chunks(layout, num_rows)
    length = chunk_slice(layout, 0).stop
    decoded = np.empty((stored, length), np.uint8)
    for chunk in range(stored):
        where = chunk_slice(layout, chunk)
        if crc32c(buffer[where]) != data[where.stop : where.stop + CHECKSUM_BYTES]:
            raise CorruptDataError(f"{place}: the checksum of chunk {chunk} does not match its bytes")
        decoded[chunk] = buffer[where]
    rows = decoded.reshape(-1).view(layout.dtype).reshape(-1, *layout.row_shape)
    return rows[:num_rows]
