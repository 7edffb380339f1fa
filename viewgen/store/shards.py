"""Writing the objects of a shard: no attempt ever replaces or deletes an object that another has committed.

An object is created, never replaced. If something else stands at its plain Zarr name (the leftover of a dead
attempt, or what a process wrote that has lost the cache to another), the attempt gives its object a name of
its own, ``views/c.3.0.0.0.0.0-5f0a9c21d3e7`` (generation and a random token), and its commit record says so.
Once a record names an object elsewhere, no record will ever count again that names the plain one; so the
plain one may be replaced by a copy of the committed bytes, for readers of plain Zarr. The argument in full is
in docs/design/0001-attempts.md.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterable
from typing import Any

import numpy as np

from viewgen.errors import DataError
from viewgen.store.commits import ShardCommit, standing_record, taken_message
from viewgen.store.encoding import chunk_checksums, encode_object
from viewgen.store.names import attempt_path
from viewgen.store.spec import CacheSpec
from viewgen.store.storage import ObjectExistsError, Storage

__all__ = ["superseded_objects", "write_plain_copies", "write_shard"]


def write_shard(
    storage: Storage, spec: CacheSpec, shard_id: int, arrays: dict[str, np.ndarray[Any, Any]]
) -> dict[str, dict[str, Any]]:
    """Encode and write the objects of one shard; the shard exists only after `commit_shard`.

    Args:
        storage: storage of a cache that `create_cache` made.
        spec: specification of that cache.
        shard_id: number of the shard.
        arrays: every array of `spec.array_layout()`, `(R, *row_shape)`, R = `len(spec.shard_rows(shard_id))`.

    Returns:
        `ShardCommit.objects`.

    Raises:
        DataError: an array is missing, unknown, or has another shape or dtype.
        ObjectExistsError: the shard is committed already.
    """
    layouts = spec.array_layout()
    num_rows = len(spec.shard_rows(shard_id))
    if set(arrays) != set(layouts):
        raise DataError(f"shard {shard_id}: got the arrays {sorted(arrays)}, expected {sorted(layouts)}")
    for name, layout in layouts.items():
        came, expected = arrays[name], (num_rows, *layout.row_shape)
        if came.shape != expected or came.dtype != layout.dtype:
            raise DataError(
                f"shard {shard_id}, array {name!r}: got {came.dtype} {came.shape}, "
                f"expected {layout.dtype} {expected}"
            )
    encoded = {name: encode_object(layout, arrays[name]) for name, layout in layouts.items()}
    # asked late: it saves the work of a worker whose shard another has committed
    generation, record = standing_record(storage, spec.identity, shard_id)
    if record is not None:
        raise ObjectExistsError(taken_message(record))
    own_ending = f".{generation}-{secrets.token_hex(6)}"
    objects = {}
    for name, data in encoded.items():
        path = layouts[name].object_path(shard_id)
        if generation or not _created(storage, path, data):
            path += own_ending
            storage.write_new(path, data)
        objects[path] = {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "crc32c": base64.b64encode(chunk_checksums(layouts[name], data, num_rows)).decode(),
        }
    return objects


def _created(storage: Storage, path: str, data: bytes) -> bool:
    """Create an object; return False if another one stands there."""
    try:
        storage.write_new(path, data)
    except ObjectExistsError:
        return storage.read(path) == data
    return True


def write_plain_copies(storage: Storage, spec: CacheSpec, commits: Iterable[ShardCommit]) -> int:
    """Write committed objects with names of their own to their plain Zarr names too; return their number."""
    num_written = 0
    for commit in commits:
        if all("-" not in path for path in commit.objects):
            continue
        for layout in spec.array_layout().values():
            path, plain = commit.path_of(layout), layout.object_path(commit.shard_id)
            if path == plain:
                continue
            data = storage.read(path)
            committed = hashlib.sha256(data).hexdigest() == commit.objects[path]["sha256"]
            if committed and not (storage.size(plain) == len(data) and storage.read(plain) == data):
                storage.write(plain, data)
                num_written += 1
    return num_written


def superseded_objects(paths: Iterable[str], spec: CacheSpec, commits: dict[int, ShardCommit]) -> list[str]:
    """Return the objects of attempts that can never be committed: their shard's record names others.

    Args:
        paths: paths that were listed before the records were read.
        spec: specification of the cache.
        commits: shard id → commit record.
    """
    layouts = spec.array_layout()
    found = []
    for path in paths:
        plain, shard_id = attempt_path(path) or ("", -1)
        layout = layouts.get(path.partition("/")[0])
        if layout is None or shard_id not in commits or path in commits[shard_id].objects:
            continue
        if layout.object_path(shard_id) == plain:
            found.append(path)
    return found
