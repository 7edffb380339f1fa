"""Reading a cache: random rows, random views, whole shards."""

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from viewgen.errors import UsageError, nearest_name
from viewgen.status import Status
from viewgen.store.array_reader import ArrayReader, MappedArrayReader, ObjectSource, RangeArrayReader
from viewgen.store.cache import read_spec
from viewgen.store.columns import REAL_TARGET
from viewgen.store.commits import scan_commits
from viewgen.store.storage import open_storage

__all__ = ["CacheReader"]

_Array = np.ndarray[Any, Any]


class CacheReader:
    """The finished part of a cache: the rows of committed shards with a selected status.

    Rows are numbered as in the cache, 0 to N − 1; `rows` lists those that can be read. Local caches are
    memory-mapped. Remote ones are read by range requests, chunk-wise, or copied shard by shard into `mirror`
    and memory-mapped there.

    A missing shard object, or one of another size than committed, is detected at its first use. A flipped bit
    is detected through the checksum of the chunk (`check="crc"`) or the digest of the whole object
    (`check="digest"`). `check="size"` leaves the contents of the large arrays unverified.

    Args:
        url: URL of the cache.
        storage_options: options of fsspec.
        check: verification at the first use of an object: ``"size"``, ``"crc"`` or ``"digest"``.
        mirror: local folder for copies of a remote cache's objects; a local cache is read in place.
        statuses: status codes of the rows to read.
        blocks: numbers of the blocks of 1000 shards to open; by default all. The log of a large cache takes
            seconds and gigabytes.

    Attributes:
        url: URL of the cache, without credentials.
        spec: the cache's specification.
        commits: shard id → commit record.
        committed: ids of the committed shards, ascending.
        status: uint8 `(N,)`, status code of every row.
        rows: readable rows, int64, ascending.

    Raises:
        MissingFileError: there is no cache at the URL.
        CorruptDataError: stored bytes differ from the committed ones; raised here or in any read.
    """

    def __init__(
        self,
        url: str,
        storage_options: dict[str, Any] | None = None,
        *,
        check: Literal["size", "crc", "digest"] = "crc",
        mirror: str | Path | None = None,
        statuses: Collection[int] = (Status.OK, Status.NOT_CONVERGED),
        blocks: Collection[int] | None = None,
    ) -> None:
        if check not in ("size", "crc", "digest"):
            raise UsageError(f"check is {check!r}; expected 'size', 'crc' or 'digest'")
        self._reopen: Callable[[], CacheReader] = partial(
            CacheReader,
            url,
            storage_options,
            check=check,
            mirror=mirror,
            statuses=statuses,
            blocks=blocks,
        )
        storage = open_storage(url, storage_options)
        self.spec = read_spec(storage)
        log = scan_commits(storage, self.spec, blocks)
        if log.faults:
            warnings.warn(
                f"{storage.url}: {len(log.faults)} commit records are damaged and their images left out; "
                "`viewgen verify` names them",
                stacklevel=2,
            )
        self.url = storage.url
        self.commits = log.commits
        self.committed = list(log.commits)
        # rows of shards that are not committed are never touched, and take no memory
        status = np.zeros(self.spec.num_images, np.uint8)
        self._readable: _Array = np.zeros(self.spec.num_images, np.bool_)
        wanted = [code for code in statuses if code != Status.ABSENT]
        for shard_id, commit in log.commits.items():
            rows = self.spec.shard_rows(shard_id)
            codes = np.frombuffer(commit.status, np.uint8)
            status[rows.start : rows.stop] = codes
            self._readable[rows.start : rows.stop] = np.isin(codes, wanted)
        self.status: _Array = status
        self.rows: _Array = np.flatnonzero(self._readable)
        mirror = None if mirror is None or storage.local_path("zarr.json") else Path(mirror).expanduser()
        self._source = ObjectSource(storage, self.spec, log.commits, check, mirror)
        self._layouts = self.spec.array_layout()
        self._readers: dict[str, ArrayReader] = {}
        self._columns: dict[tuple[str, int], _Array] = {}
        self._views_shape = self._layouts["views"].row_shape
        self._image_shape = self._views_shape[1:]
        self._image_bytes = math.prod(self._image_shape)
        self._views = self._reader("views")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        spec = self.spec
        size = "×".join(map(str, self._image_shape))
        made_of = " ".join(str(spec.dataset[key]) for key in ("name", "split") if key in spec.dataset)
        return (
            f"<{type(self).__name__} {self.url}: {spec.method} views of {made_of or 'images'}, "
            f"{len(self):,} of {spec.num_images:,} images × {spec.num_views} views, {size}, "
            f"{len(self.committed)} of {spec.num_shards} shards>"
        )

    @property
    def is_local(self) -> bool:
        """True if all of it is read from this machine's disk: no file system has connections."""
        return self._source.storage.local_path("zarr.json") is not None

    def reopened(self) -> "CacheReader":
        """Return a new reader with the same arguments."""
        return self._reopen()

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return self._reopen, ()

    def views(self, rows: Any, view_index: Any = None, out: _Array | None = None) -> _Array:
        """Read views.

        Args:
            rows: one or more of `self.rows`, an integer or int `(B,)`, in any order, with repeats.
            view_index: index of the view, one for all rows or int `(B,)`; by default all views.
            out: array to fill, of the result's shape, uint8 and C-contiguous; avoids an allocation.

        Returns:
            uint8 `(B, V, C, H, W)`, or `(B, C, H, W)` with `view_index`; without the B for a single row.

        Raises:
            UsageError: a row is not readable, or a view index is outside 0 … V − 1.
        """
        length, start = self._image_bytes, 0
        if view_index is None:
            shape, length = self._views_shape, length * self.spec.num_views
        else:
            shape = self._image_shape
            start = self._checked_view(view_index, rows) * length
        if isinstance(rows, int | np.integer):
            return self._one(int(rows), int(start), length, shape, out)
        rows = self._checked(rows)
        if out is None:
            out = np.empty((len(rows), *shape), np.uint8)
        elif out.shape != (len(rows), *shape) or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise UsageError(
                f"out is {out.dtype} {out.shape}, expected contiguous uint8 {(len(rows), *shape)}"
            )
        if len(rows):
            self._views.gather(rows, start, length, out.data.cast("B"))
        return out

    def array(self, name: str, rows: Any = None) -> _Array:
        """Read any array of the cache.

        Args:
            name: name of the array: "distance", "label", a column of the method …
            rows: an integer or int `(B,)`; by default `self.rows`.

        Returns:
            `(B, *row_shape)` of the array's dtype; without the B for a single row.
        """
        if name not in self._layouts:
            raise UsageError(
                f"no array {name!r}{nearest_name(name, self._layouts)}; has {list(self._layouts)}"
            )
        if isinstance(rows, int | np.integer):
            one: _Array = self.array(name, np.array([rows]))[0]
            return one
        rows = self.rows if rows is None else self._checked(rows)
        layout = self._layouts[name]
        out = np.empty((len(rows), *layout.row_shape), layout.dtype)
        if not len(rows):
            return out
        if layout.chunk_rows is not None:
            length = layout.row_bytes
            self._reader(name).gather(rows, 0, length, out.data.cast("B"))
            return out
        shards = rows // layout.shard_rows
        order = np.argsort(shards, kind="stable")
        bounds = [0, *(np.flatnonzero(np.diff(shards[order])) + 1).tolist(), len(rows)]
        self._load_columns(name, np.unique(shards).tolist())
        for first, stop in pairwise(bounds):
            taken = order[first:stop]
            shard_id = int(shards[taken[0]])
            out[taken] = self._columns[name, shard_id][rows[taken] - shard_id * layout.shard_rows]
        return out

    @property
    def labels(self) -> _Array:
        """int64 `(len(self), *label_shape)`, aligned with `rows`."""
        return self.array("label")

    @property
    def real_targets(self) -> _Array | None:
        """float32 `(len(self), R)`, aligned with `rows`; None for a cache without real-valued targets."""
        return self.array(REAL_TARGET) if REAL_TARGET in self._layouts else None

    @property
    def source_index(self) -> _Array:
        """int64 `(len(self),)`: position of each row's image in its data set, aligned with `rows`."""
        return self.array("source_index")

    @property
    def distance(self) -> _Array:
        """float32 `(len(self), V)`: distance of each view from its anchor, aligned with `rows`."""
        return self.array("distance")

    def shard(self, shard_id: int, arrays: Iterable[str] | None = None) -> dict[str, _Array]:
        """Read the readable rows of one committed shard.

        Args:
            shard_id: one of `self.committed`.
            arrays: names; by default all except latent codes.

        Returns:
            "row" int64 `(R,)` and the arrays `(R, *row_shape)`, in row order.
        """
        if shard_id not in self.commits:
            raise UsageError(f"shard {shard_id} is not committed")
        codes = {column.name for column in self.spec.columns if column.codes}
        names = [n for n in self._layouts if n not in codes] if arrays is None else list(arrays)
        if unknown := set(names) - set(self._layouts):
            raise UsageError(f"no arrays {sorted(unknown)}; there are {list(self._layouts)}")
        rows = self.spec.shard_rows(shard_id)
        kept = self._readable[rows.start : rows.stop]
        contents: dict[str, _Array] = {"row": rows.start + np.flatnonzero(kept)}
        for name in names:
            if self._layouts[name].chunk_rows is None:
                self._load_columns(name, [shard_id])
                contents[name] = self._columns[name, shard_id][kept]
            else:
                values = self._reader(name).shard(shard_id)
                contents[name] = values if kept.all() else values[kept]
        return contents

    def iter_shards(
        self, order: Iterable[int] | None = None, arrays: Iterable[str] | None = None
    ) -> Iterator[dict[str, _Array]]:
        """Yield `shard(id, arrays)` for every committed shard, or for the ids of `order`."""
        names = None if arrays is None else list(arrays)
        for shard_id in self.committed if order is None else order:
            yield self.shard(shard_id, names)

    def _one(self, row: int, start: int, length: int, shape: tuple[int, ...], out: _Array | None) -> _Array:
        if not 0 <= row < len(self._readable) or not self._readable[row]:
            self._checked([row])
        if isinstance(self._views, MappedArrayReader) and out is None:
            data = self._views.row(row, start, length)
            return np.frombuffer(data, np.uint8).reshape(shape).copy()
        one = np.empty(shape, np.uint8) if out is None else out
        self._views.gather(np.array([row]), start, length, one.data.cast("B"))
        return one

    def _checked(self, rows: Any) -> _Array:
        """Return `rows` as int64 `(B,)`; UsageError names the first that cannot be read."""
        indices = np.asarray(rows)
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise UsageError(f"rows are {indices.dtype} {indices.shape}, expected integers (B,)")
        indices = indices.astype(np.int64, copy=False)
        N = self.spec.num_images
        if indices.size and (indices.min() < 0 or indices.max() >= N):
            raise UsageError(f"a row is outside 0 … {N - 1}")
        if not self._readable[indices].all():
            row = int(indices[~self._readable[indices]][0])
            raise UsageError(f"row {row} is absent or failed; use rows of CacheReader.rows")
        return indices

    def _checked_view(self, view_index: Any, rows: Any) -> Any:
        """Return `view_index` as an integer or int64 `(B,)`."""
        index = np.asarray(view_index)
        if index.shape not in ((), np.shape(rows)) or (index.size and index.dtype.kind not in "iu"):
            raise UsageError(
                f"view_index is {index.dtype} {index.shape}, expected an integer or integers {np.shape(rows)}"
            )
        if index.size and (index.min() < 0 or index.max() >= self.spec.num_views):
            raise UsageError(f"a view index is outside 0 … {self.spec.num_views - 1}")
        return index.astype(np.int64)

    def _reader(self, name: str) -> ArrayReader:
        if name not in self._readers:
            kind = MappedArrayReader if self._source.mappable else RangeArrayReader
            self._readers[name] = kind(self._source, self._layouts[name])
        return self._readers[name]

    def _load_columns(self, name: str, shard_ids: list[int]) -> None:
        """Decode the objects of a small array that are not in memory yet."""
        layout = self._layouts[name]

        def load(shard_id: int) -> _Array:
            return self._source.decode(layout, shard_id)

        absent = [shard_id for shard_id in shard_ids if (name, shard_id) not in self._columns]
        loaded = self._source.storage.map_parallel(load, absent)
        for shard_id, values in zip(absent, loaded, strict=True):
            self._columns[name, shard_id] = values
