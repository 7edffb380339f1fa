"""The in-memory index of a cache: the small arrays of every image, without pixels.

60,000 images with 8 views take about 4 MB. The index follows a growing cache: on request, at most once per
`REFRESH_SECONDS`, it lists the commit records again and reads new shards only.
"""

import contextlib
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.errors import CorruptDataError, MissingFileError, StorageError
from viewgen.status import Status
from viewgen.store import (
    CacheReader,
    CacheSpec,
    ShardCommit,
    Storage,
    open_storage,
    read_spec,
)
from viewgen.store.quality import QUALITY_FOLDER, SCORES_DOCUMENT, read_scores

__all__ = ["REFRESH_SECONDS", "CacheIndex", "Snapshot"]

REFRESH_SECONDS = 1.0

_COLUMNS = ("source_index", "label", "distance", "steps", "inversion_error", "status")
_SHOWN = (Status.OK, Status.NOT_CONVERGED, Status.FAILED)


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A cache as it stood at one moment; N images, V views.

    Attributes:
        version: number that grows with every change of the cache.
        reader: reader of the views of committed shards, including failed rows (all zero).
        columns: name → array with first axis N: source_index, label, distance, steps, inversion_error,
            status; fill values in rows that are not committed.
        faulty: shard id → fault of its files; its rows count as absent.
        scores: name → scores of all views, float32 `(N, V)`, NaN where unknown; empty where the cache keeps
            none. `viewgen.diagnostics.scores` defines them.
    """

    version: int
    reader: CacheReader
    columns: dict[str, NDArray[Any]]
    faulty: dict[int, str]
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def mean_distance(self) -> NDArray[np.float32]:
        """Mean over the views of the distance from the anchor, `(N,)`, NaN if unknown."""
        return _over_views(self.columns["distance"], np.nanmean)

    @cached_property
    def worst_miss(self) -> NDArray[np.float32]:
        """Largest |distance − ε₁| of an image's views, `(N,)`, NaN if unknown."""
        epsilon = self.epsilon_boundary
        miss = np.abs(self.columns["distance"] - np.float32(np.nan if epsilon is None else epsilon))
        return _over_views(miss, np.nanmax)

    @cached_property
    def worst_margin(self) -> NDArray[np.float32]:
        """Smallest label margin of an image's views, `(N,)`, NaN if unknown.

        Below 0, a view is read as another class.
        """
        return self._of_scores("label_margin", np.nanmin)

    @cached_property
    def closest_pair(self) -> NDArray[np.float32]:
        """Distance under f between an image's closest two views, `(N,)`, NaN if unknown."""
        return self._of_scores("nearest_view", np.nanmin)

    @cached_property
    def mean_density(self) -> NDArray[np.float32]:
        """Mean over the views of their density among real images, `(N,)`, NaN if unknown."""
        return self._of_scores("density", np.nanmean)

    @cached_property
    def judged(self) -> NDArray[np.str_]:
        """What a classifier reads in an image's views, `(N,)`.

        ``"foreign"``: another class in some view; ``"kept"``: the image's class in all; ``"unread"``: it
        misreads the image itself, so its views are not judged; empty where no view was read.
        """
        margin = self.worst_margin
        read = np.where(margin < 0, "foreign", np.where(margin >= 0, "kept", "unread"))
        return np.where(self.has_views & ("label_margin" in self.scores), read, "")

    @cached_property
    def part(self) -> NDArray[np.str_]:
        """Whether an image lies in the main part of its class, `(N,)`.

        ``"main-part"``, ``"outlier"``, or empty where `concentration` has not looked at the image.
        """
        inside = self._of_scores("main_part", np.nanmin)
        return np.where(inside == 1, "main-part", np.where(inside == 0, "outlier", ""))

    @cached_property
    def row_of_source(self) -> dict[int, int]:
        """Source index → row."""
        rows = self.rows
        return dict(zip(self.columns["source_index"][rows].tolist(), rows.tolist(), strict=True))

    @property
    def spec(self) -> CacheSpec:
        return self.reader.spec

    @property
    def commits(self) -> dict[int, ShardCommit]:
        return self.reader.commits

    @property
    def rows(self) -> NDArray[np.int64]:
        """Committed rows, whatever their status, ascending."""
        return np.flatnonzero(self.columns["status"] != Status.ABSENT)

    @cached_property
    def has_views(self) -> NDArray[np.bool_]:
        """True for rows that have views, `(N,)`."""
        return np.isin(self.columns["status"], (Status.OK, Status.NOT_CONVERGED))

    @property
    def readable_rows(self) -> NDArray[np.int64]:
        """Rows that have views, ascending."""
        return np.flatnonzero(self.has_views)

    @property
    def epsilon_boundary(self) -> float | None:
        """ε₁ of the method's configuration, None if it has none."""
        return self._number("epsilon_boundary")

    @property
    def epsilon_uniformity(self) -> float | None:
        """ε₂ of the method's configuration, None if it has none."""
        return self._number("epsilon_uniformity")

    def readable(self, row: int) -> bool:
        """Return True if the row exists and has views."""
        return 0 <= row < len(self.has_views) and bool(self.has_views[row])

    def shard_of(self, row: int) -> int:
        return row // self.spec.shard_images

    def failure(self, row: int) -> str:
        """Return the reason why the row failed; empty if it did not fail."""
        commit = self.commits.get(self.shard_of(row))
        return commit.failures.get(row, "") if commit is not None else ""

    def fingerprint(self, row: int) -> str:
        """Return text that changes with the row's pixels, for the addresses of pictures."""
        commit = self.commits.get(self.shard_of(row))
        return self.spec.identity[7:15] + (_digest_of_views(commit)[:8] if commit is not None else "")

    def _of_scores(self, name: str, reduce: Callable[..., Any]) -> NDArray[np.float32]:
        absent = np.full((self.spec.num_images, 1), np.nan, np.float32)
        return _over_views(self.scores.get(name, absent), reduce)

    def _number(self, name: str) -> float | None:
        value = self.spec.config.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class CacheIndex:
    """The index of one cache; thread-safe.

    Args:
        url: URL of the cache, which need not exist yet.
        storage_options: options of the fsspec file system.
        clock: function that returns seconds, for the pause between two reads of the storage.
    """

    def __init__(
        self,
        url: str,
        storage_options: dict[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._storage_options, self._clock = url, storage_options, clock
        self.storage: Storage = open_storage(url, storage_options)
        self.url = self.storage.url
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._seen: object = None
        self._looked = -np.inf

    def snapshot(self) -> Snapshot:
        """Return the present state of the cache, at most `REFRESH_SECONDS` old.

        Raises:
            MissingFileError: there is no cache at the URL (yet).
            StorageError: the storage cannot be read and has not been read before.
            CorruptDataError: the cache's metadata are damaged.
        """
        with self._lock:
            now = self._clock()
            if self._snapshot is None or now - self._looked >= REFRESH_SECONDS:
                try:
                    self._refresh()
                except (MissingFileError, StorageError):
                    # a cache that is just being replaced, or a storage that stutters
                    if self._snapshot is None:
                        raise
                self._looked = now
            assert self._snapshot is not None
            return self._snapshot

    def _refresh(self) -> None:
        identity = read_spec(self.storage).identity
        # scores keep their paths when they are written again
        scores_document = self._bytes(SCORES_DOCUMENT)
        paths = (*self.storage.paths("commits"), *self.storage.paths(QUALITY_FOLDER))
        seen = (identity, scores_document, *paths)
        if seen == self._seen:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged records: `Snapshot.faulty` says more
            reader = CacheReader(self._url, self._storage_options, statuses=_SHOWN)
        before = self._snapshot
        if before is not None and before.spec.identity != reader.spec.identity:
            before = None
        columns = _empty_columns(reader.spec) if before is None else _copies(before.columns)
        known = {} if before is None else dict(before.commits)
        faulty = {} if before is None else dict(before.faulty)
        for shard_id in known.keys() | reader.commits.keys():
            commit = reader.commits.get(shard_id)
            if commit == known.get(shard_id):
                continue
            faulty.pop(shard_id, None)
            rows = reader.spec.shard_rows(shard_id)
            _clear(columns, reader.spec, rows)
            if commit is None:
                continue
            try:
                _fill(columns, reader, shard_id)
            except CorruptDataError as error:
                _clear(columns, reader.spec, rows)
                faulty[shard_id] = str(error)
        version = 1 if self._snapshot is None else self._snapshot.version + 1
        try:
            scores = read_scores(self.storage, reader.spec)
        except CorruptDataError:  # they are written again by the command that wrote them
            scores = {}
        self._snapshot = Snapshot(
            version=version, reader=reader, columns=columns, faulty=faulty, scores=scores
        )
        self._seen = seen

    def _bytes(self, path: str) -> bytes:
        """Return an object's contents, empty where there is none that can be read."""
        try:
            return self.storage.read(path)
        except (MissingFileError, CorruptDataError):
            return b""


def _over_views(values: NDArray[np.float32], reduce: Callable[..., Any]) -> NDArray[np.float32]:
    """Return a reduction over the finite values of each image `(N, V)`, NaN for images without any."""
    found = np.full(len(values), np.nan, np.float32)
    finite = np.isfinite(values)
    known = finite.any(axis=1)
    found[known] = reduce(np.where(finite, values, np.nan)[known], axis=1)
    return found


def _empty_columns(spec: CacheSpec) -> dict[str, NDArray[Any]]:
    layouts = spec.array_layout()
    return {name: np.full(layouts[name].shape, layouts[name].fill, layouts[name].dtype) for name in _COLUMNS}


def _copies(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: values.copy() for name, values in columns.items()}


def _clear(columns: dict[str, NDArray[Any]], spec: CacheSpec, rows: range) -> None:
    layouts = spec.array_layout()
    for name, values in columns.items():
        values[rows.start : rows.stop] = layouts[name].fill


def _fill(columns: dict[str, NDArray[Any]], reader: CacheReader, shard_id: int) -> None:
    contents = reader.shard(shard_id, _COLUMNS)
    for name, values in columns.items():
        values[contents["row"]] = contents[name]


def _digest_of_views(commit: ShardCommit) -> str:
    with contextlib.suppress(StopIteration):
        return str(
            next(entry["sha256"] for path, entry in commit.objects.items() if path.startswith("views/"))
        )
    return ""
