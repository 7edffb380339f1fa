"""Random access to the arrays of a cache, by memory map or by range requests.

Both readers return byte ranges of rows, which the caller interprets. A row's position follows from its number
(see `encoding`), so neither reads the shard index.
"""

import hashlib
import mmap
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.store.commits import ShardCommit
from viewgen.store.encoding import (
    CHECKSUM_BYTES,
    chunk_checksums,
    chunk_slice,
    crc32c,
    decode_object,
    index_bytes,
    num_chunks,
    object_bytes,
    row_offsets,
)
from viewgen.store.spec import ArrayLayout, CacheSpec
from viewgen.store.storage import LocalStorage, Storage

__all__ = ["ArrayReader", "MappedArrayReader", "ObjectSource", "RangeArrayReader"]

_CHUNK_CACHE_BYTES = 64_000_000
_HOW_TO_REPAIR = "`viewgen verify --repair` and the same `viewgen cache` command make the shard anew"


class ObjectSource:
    """The committed objects of a cache.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        commits: commit records, needed for digests.
        check: "size", "crc" or "digest".
        mirror: local folder into which whole objects are copied once, or None.
    """

    def __init__(
        self,
        storage: Storage,
        spec: CacheSpec,
        commits: dict[int, ShardCommit],
        check: str,
        mirror: Path | None,
    ) -> None:
        self.storage = storage
        self.spec = spec
        self.check = check
        self._commits = commits
        self._checksums: dict[tuple[str, int], bytes | None] = {}
        self._mirror = LocalStorage(mirror / spec.identity[7:23]) if mirror else None
        self.mappable = mirror is not None or storage.local_path("zarr.json") is not None

    def num_rows(self, shard_id: int) -> int:
        """Return the rows of a shard."""
        return len(self.spec.shard_rows(shard_id))

    def place(self, layout: ArrayLayout, shard_id: int) -> str:
        """Return the object's name for messages."""
        return f"{self.storage.url}/{self.path(layout, shard_id)}"

    def path(self, layout: ArrayLayout, shard_id: int) -> str:
        """Return the object's path."""
        return self._commits[shard_id].path_of(layout)

    def decode(self, layout: ArrayLayout, shard_id: int) -> np.ndarray[Any, Any]:
        """Return the rows of a whole object, `(R, *row_shape)`, after all checks."""
        data, num_rows = self.read(layout, shard_id), self.num_rows(shard_id)
        rows = decode_object(layout, data, num_rows, self.place(layout, shard_id))
        if self.check == "crc":
            committed = self.checksums(layout, shard_id)
            if committed is not None and chunk_checksums(layout, data, num_rows) != committed:
                raise CorruptDataError(self.exchanged(layout, shard_id))
        return rows

    def checksums(self, layout: ArrayLayout, shard_id: int) -> bytes | None:
        """Return the committed checksums of the object's chunks, four bytes each; None if not recorded."""
        key = (layout.name, shard_id)
        if key not in self._checksums:
            self._checksums[key] = self._commits[shard_id].checksums(layout)
        return self._checksums[key]

    def exchanged(self, layout: ArrayLayout, shard_id: int) -> str:
        """Return the message about a sound object that is not the committed one."""
        return (
            f"{self.place(layout, shard_id)} is not the object that was committed there (its checksums are "
            f"those of other contents); {_HOW_TO_REPAIR}"
        )

    def check_size(self, layout: ArrayLayout, shard_id: int) -> None:
        """Raise CorruptDataError if the object is missing or has another size than was committed."""
        found = self.storage.size(self.path(layout, shard_id))
        self._compare_size(layout, shard_id, found)

    def read(self, layout: ArrayLayout, shard_id: int) -> bytes:
        """Return a whole object, after a check of its size and, if requested, of its digest."""
        try:
            # no more than one byte beyond its size, whatever the object has become
            expected = object_bytes(layout, self.num_rows(shard_id))
            data = self.storage.read_range(self.path(layout, shard_id), 0, expected + 1)
        except MissingFileError:
            self._compare_size(layout, shard_id, None)
            raise
        self._compare_size(layout, shard_id, len(data))
        if self.check == "digest":
            self.check_digest(layout, shard_id, data)
        return data

    def check_digest(self, layout: ArrayLayout, shard_id: int, data: Any) -> None:
        """Raise CorruptDataError if the object's bytes are not those that were committed."""
        if hashlib.sha256(data).hexdigest() != self._digest(layout, shard_id):
            raise CorruptDataError(
                f"{self.place(layout, shard_id)} differs from what was committed (sha256); {_HOW_TO_REPAIR}"
            )

    def file(self, layout: ArrayLayout, shard_id: int) -> Path:
        """Return a local file of the object with the size checked; a remote one is copied into the mirror."""
        path = self.path(layout, shard_id)
        if self._mirror is None:
            self.check_size(layout, shard_id)
            local = self.storage.local_path(path)
            assert local is not None
            return local
        # the digest in the name keeps a shard that was made anew apart from its old copy
        copy = f"{path}.{self._digest(layout, shard_id)[:16]}"
        if self._mirror.size(copy) != object_bytes(layout, self.num_rows(shard_id)):
            data = self.read(layout, shard_id)
            self.check_digest(layout, shard_id, data)
            self._mirror.write(copy, data)
        return self._mirror.local_path(copy)

    def _digest(self, layout: ArrayLayout, shard_id: int) -> str:
        return str(self._commits[shard_id].objects[self.path(layout, shard_id)]["sha256"])

    def _compare_size(self, layout: ArrayLayout, shard_id: int, found: int | None) -> None:
        expected = object_bytes(layout, self.num_rows(shard_id))
        if found != expected:
            state = "is missing" if found is None else f"has {found} bytes, {expected} were committed"
            raise CorruptDataError(f"{self.place(layout, shard_id)} {state}; {_HOW_TO_REPAIR}")


class ArrayReader(ABC):
    """Reads byte ranges of one array's rows."""

    def __init__(self, source: ObjectSource, layout: ArrayLayout) -> None:
        self._source = source
        self._layout = layout
        self._chunk_rows = layout.chunk_rows or layout.shard_rows
        self._chunk_bytes = self._chunk_rows * layout.row_bytes

    @abstractmethod
    def gather(self, rows: np.ndarray[Any, Any], start: Any, length: int, out: memoryview) -> None:
        """Copy bytes [start, start + length) of each row into `out`, one after another.

        Args:
            rows: int64 `(B,)`, rows of committed shards.
            start: byte within the row, an integer or int64 `(B,)`.
            length: bytes per row.
            out: writable bytes, B · length.
        """

    @abstractmethod
    def shard(self, shard_id: int) -> np.ndarray[Any, Any]:
        """Return all rows of one shard, `(R, *row_shape)`."""


class MappedArrayReader(ArrayReader):
    """Memory-maps the objects; each chunk's checksum is verified when it is first touched.

    A file that somebody truncates while it is mapped ends the process (SIGBUS); the store itself only ever
    replaces files by renaming, which leaves open maps intact.
    """

    def __init__(self, source: ObjectSource, layout: ArrayLayout) -> None:
        super().__init__(source, layout)
        self._shard_chunks = layout.shard_rows // self._chunk_rows
        # one byte per chunk of the cache: 1 once its checksum was found right
        self._verified = np.zeros(source.spec.num_shards * self._shard_chunks, np.uint8)
        self._known: set[int] = set()
        self._maps: dict[int, memoryview] = {}
        # every map holds a file descriptor
        self._most_maps = max(16, min(4096, _most_files() // 4))

    def gather(self, rows: np.ndarray[Any, Any], start: Any, length: int, out: memoryview) -> None:
        shards = rows // self._layout.shard_rows
        within = rows - shards * self._layout.shard_rows
        chunks = shards * self._shard_chunks + within // self._chunk_rows
        if not self._verified[chunks].all():
            self._verify(np.unique(chunks[self._verified[chunks] == 0]))
        offsets = row_offsets(self._layout, within) + start
        maps, position = self._maps, 0
        # a plain loop of slice copies is as fast as numpy's gather once rows lie in many files
        for shard, offset in zip(shards.tolist(), offsets.tolist(), strict=True):
            mapped = maps[shard] if shard in maps else self._map(shard)
            out[position : position + length] = mapped[offset : offset + length]
            position += length

    def row(self, row: int, start: int, length: int) -> memoryview:
        """Return bytes [start, start + length) of one row, in place."""
        shard, within = divmod(row, self._layout.shard_rows)
        chunk, chunk_row = divmod(within, self._chunk_rows)
        if not self._verified[shard * self._shard_chunks + chunk]:
            self._verify(np.array([shard * self._shard_chunks + chunk]))
        offset = chunk * (self._chunk_bytes + CHECKSUM_BYTES) + chunk_row * self._layout.row_bytes + start
        mapped = self._maps[shard] if shard in self._maps else self._map(shard)
        return mapped[offset : offset + length]

    def shard(self, shard_id: int) -> np.ndarray[Any, Any]:
        num_rows = self._source.num_rows(shard_id)
        stored = num_chunks(self._layout, num_rows)
        chunks = shard_id * self._shard_chunks + np.arange(stored)
        if not self._verified[chunks].all():
            self._verify(chunks[self._verified[chunks] == 0])
        mapped = self._maps[shard_id] if shard_id in self._maps else self._map(shard_id)
        strides = (self._chunk_bytes + CHECKSUM_BYTES, 1)
        packed = np.ndarray((stored, self._chunk_bytes), np.uint8, mapped, strides=strides).flatten()
        return packed.view(self._layout.dtype).reshape(-1, *self._layout.row_shape)[:num_rows]

    def _map(self, shard_id: int) -> memoryview:
        file = self._source.file(self._layout, shard_id)
        while len(self._maps) >= self._most_maps:
            self._maps.pop(next(iter(self._maps)))
        with file.open("rb") as opened:
            mapped = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        if shard_id not in self._known:
            index = index_bytes(self._layout, self._source.num_rows(shard_id))
            if index and mapped[-len(index) :] != index:
                raise CorruptDataError(
                    f"{self._source.place(self._layout, shard_id)}: the shard index is damaged; "
                    f"{_HOW_TO_REPAIR}"
                )
            if self._source.check == "digest":
                self._source.check_digest(self._layout, shard_id, mapped)
            if self._source.check != "crc":
                self._verified[shard_id * self._shard_chunks :][: self._shard_chunks] = 1
            self._known.add(shard_id)
        self._maps[shard_id] = mapped
        return mapped

    def _verify(self, chunks: np.ndarray[Any, Any]) -> None:
        for number in chunks.tolist():
            shard_id, chunk = divmod(number, self._shard_chunks)
            mapped = self._maps[shard_id] if shard_id in self._maps else self._map(shard_id)
            if self._verified[number]:
                continue
            where = chunk_slice(self._layout, chunk)
            _check_chunk(
                self._source,
                self._layout,
                shard_id,
                chunk,
                np.frombuffer(mapped, np.uint8)[where.start : where.stop + CHECKSUM_BYTES],
            )
            self._verified[number] = 1


class RangeArrayReader(ArrayReader):
    """Reads whole chunks by range requests, several at a time, and keeps the last ones."""

    def __init__(self, source: ObjectSource, layout: ArrayLayout) -> None:
        super().__init__(source, layout)
        self._known: set[int] = set()
        self._chunks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._most_chunks = max(1, _CHUNK_CACHE_BYTES // self._chunk_bytes)

    def gather(self, rows: np.ndarray[Any, Any], start: Any, length: int, out: memoryview) -> None:
        shards, within = np.divmod(rows, self._layout.shard_rows)
        chunks, chunk_rows = np.divmod(within, self._chunk_rows)
        keys = list(zip(shards.tolist(), chunks.tolist(), strict=True))
        wanted = [key for key in dict.fromkeys(keys) if key not in self._chunks]
        fetched = dict(zip(wanted, self._source.storage.map_parallel(self._fetch, wanted), strict=True))
        held = {key: self._chunks[key] for key in keys if key in self._chunks} | fetched
        offsets = (chunk_rows * self._layout.row_bytes + start).tolist()
        position = 0
        for key, offset in zip(keys, offsets, strict=True):
            out[position : position + length] = memoryview(held[key])[offset : offset + length]
            position += length
        for key in dict.fromkeys(keys):
            self._chunks[key] = held[key]
            self._chunks.move_to_end(key)
        while len(self._chunks) > self._most_chunks:
            self._chunks.popitem(last=False)

    def shard(self, shard_id: int) -> np.ndarray[Any, Any]:
        return self._source.decode(self._layout, shard_id)

    def _fetch(self, key: tuple[int, int]) -> bytes:
        shard_id, chunk = key
        if shard_id not in self._known:
            if self._source.check == "digest":
                self._source.read(self._layout, shard_id)
            else:
                self._source.check_size(self._layout, shard_id)
            self._known.add(shard_id)
        where = chunk_slice(self._layout, chunk)
        path = self._source.path(self._layout, shard_id)
        data = self._source.storage.read_range(path, where.start, self._chunk_bytes + CHECKSUM_BYTES)
        _check_chunk(self._source, self._layout, shard_id, chunk, np.frombuffer(data, np.uint8))
        return data


def _most_files() -> int:
    """Return the number of files that this process may open."""
    try:
        import resource
    except ImportError:  # Windows, whose C library has 512 by default
        return 512
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _check_chunk(
    source: ObjectSource, layout: ArrayLayout, shard_id: int, chunk: int, data: np.ndarray[Any, Any]
) -> None:
    """Raise CorruptDataError unless `data` is a chunk followed by its checksum."""
    found = crc32c(data[:-CHECKSUM_BYTES])
    if found != data[-CHECKSUM_BYTES:].tobytes():
        raise CorruptDataError(
            f"{source.place(layout, shard_id)}: the checksum of chunk {chunk} does not match its bytes; "
            f"{_HOW_TO_REPAIR}"
        )
    committed = source.checksums(layout, shard_id) if source.check == "crc" else None
    if committed is not None and found != committed[chunk * CHECKSUM_BYTES :][:CHECKSUM_BYTES]:
        raise CorruptDataError(source.exchanged(layout, shard_id))
