"""The committed part of a cache as a group of zarr-python, read-only.

A plain Zarr reader opens the cache's URL, and takes objects for finished that are not: a leftover of a killed
run, or one that its commit record names otherwise. Here every key is looked up in the records first; what is
not committed reads as the fill value.
"""

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np

from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.store.commits import ShardCommit
from viewgen.store.metadata import array_metadata, group_metadata
from viewgen.store.spec import CacheSpec
from viewgen.store.storage import Storage

if TYPE_CHECKING:
    import zarr

__all__ = ["zarr_group"]

# whole objects of a remote cache that are kept
_KEPT = 4


class _Committed(MutableMapping[str, Any]):
    """Plain Zarr name → bytes of the committed object."""

    def __init__(self, storage: Storage, spec: CacheSpec, commits: dict[int, ShardCommit]) -> None:
        layouts = spec.array_layout()
        self._storage = storage
        self._documents = {"zarr.json": group_metadata(spec)}
        self._documents |= {f"{name}/zarr.json": array_metadata(layout) for name, layout in layouts.items()}
        self._objects = {
            layout.object_path(shard_id): (commit.path_of(layout), commit)
            for shard_id, commit in commits.items()
            for layout in layouts.values()
        }
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def __getitem__(self, key: str) -> Any:
        from zarr.buffer.cpu import Buffer

        if key in self._documents:
            return Buffer.from_bytes(self._documents[key])
        path, commit = self._objects[key]
        expected = int(commit.objects[path]["bytes"])
        if (local := self._storage.local_path(path)) is not None:
            try:
                mapped = np.memmap(local, np.uint8, "r")
            except (FileNotFoundError, ValueError):  # the latter is an empty file
                mapped = None
            self._check(path, None if mapped is None else len(mapped), expected)
            return Buffer.from_array_like(np.asarray(mapped))
        if key not in self._kept:
            try:
                data = self._storage.read(path)
            except MissingFileError:
                data = b""
            self._check(path, len(data), expected)
            self._kept[key] = Buffer.from_bytes(data)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _check(self, path: str, found: int | None, expected: int) -> None:
        if found != expected:
            raise CorruptDataError(
                f"{self._storage.url}/{path} has {found or 0} bytes, {expected} were committed; "
                "`viewgen verify --repair` and the same `viewgen cache` command make the shard anew"
            )

    def __setitem__(self, key: str, value: Any) -> None:
        raise UsageError("the committed part of a cache is read-only")

    def __delitem__(self, key: str) -> None:
        raise UsageError("the committed part of a cache is read-only")

    def __iter__(self) -> Iterator[str]:
        yield from self._documents
        yield from self._objects

    def __len__(self) -> int:
        return len(self._documents) + len(self._objects)


def zarr_group(storage: Storage, spec: CacheSpec, commits: dict[int, ShardCommit]) -> "zarr.Group":
    """Return the committed part of a cache as a group of zarr-python.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        commits: shard id → commit record.
    """
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore(_Committed(storage, spec, commits), read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=3)
