"""Commit records: the only thing that makes a shard exist.

A shard's objects are written first, its record ``commits/00000042.json`` last and create-only. Readers,
resuming runs and `verify` trust records and nothing else; objects without one are leftovers of a killed run.

A record is one line of JSON that ends with a digest of itself. Long logs are compacted: the records of a full
block of shards move, line by line, into ``commits/compacted-00000007.jsonl``. Where both are present the
shard's own file wins.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, DataError, MissingFileError
from viewgen.store.encoding import encode_object, object_bytes
from viewgen.store.spec import ArrayLayout, CacheSpec, canonical_json
from viewgen.store.storage import ObjectExistsError, Storage

__all__ = [
    "CommitLog",
    "Fault",
    "ShardCommit",
    "commit_shard",
    "compact_commits",
    "drop_commits",
    "list_commits",
    "pending_shards",
    "read_commit",
    "scan_commits",
    "write_shard",
]

_BLOCK_SHARDS = 1000
_SINGLE = re.compile(r"commits/(\d{8,})\.json")
_DIGEST = b',"digest":"%s"}\n'
_TO_DIGITS = bytes.maketrans(bytes(range(10)), b"0123456789")
_FROM_DIGITS = bytes.maketrans(b"0123456789", bytes(range(10)))
_COMPACTED = re.compile(r"commits/compacted-(\d{8,})\.jsonl")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCommit:
    """The record of one finished shard.

    Attributes:
        shard_id: which shard.
        identity: of the cache's specification, `CacheSpec.identity`.
        objects: path → {"bytes": size, "sha256": hexadecimal digest} of every object of the shard.
        status: status code of each row of the shard, one byte each; any sequence of codes is taken.
        failures: row of the cache → reason, for rows with status 3.
        attempt: how often the shard was begun, from 1.
        run_id: which run wrote it.
        seconds: wall-clock time that the shard took.
        stats: further numbers for reports.
    """

    shard_id: int
    identity: str
    objects: dict[str, dict[str, Any]]
    status: bytes
    failures: dict[int, str] = field(default_factory=dict)
    attempt: int = 1
    run_id: str = ""
    seconds: float = 0.0
    stats: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.status, bytes):
            object.__setattr__(self, "status", np.asarray(self.status, np.uint8).tobytes())
        object.__setattr__(self, "failures", {int(row): str(why) for row, why in self.failures.items()})

    def to_bytes(self) -> bytes:
        """Return the record's line: canonical JSON, closed by the sha256 digest of what stands before it."""
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        document["status"] = self.status.translate(_TO_DIGITS).decode()
        document["stats"] = _without_nan(self.stats)
        body = canonical_json(document)[:-1]
        return body + _DIGEST % hashlib.sha256(body).hexdigest().encode()

    @classmethod
    def from_bytes(cls, line: bytes, place: str) -> "ShardCommit":
        """Read a record's line; CorruptDataError if it is not, to the bit, one that `to_bytes` wrote."""
        body = line[: -len(_DIGEST % bytes(64))]
        try:
            if line[len(body) :] != _DIGEST % hashlib.sha256(body).hexdigest().encode():
                raise ValueError("its digest does not match its contents")
            document = json.loads(body + b"}")
            document["status"] = document["status"].encode().translate(_FROM_DIGITS)
            return cls(**document)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorruptDataError(f"{place} is damaged: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something in a cache that is not as it was committed.

    Attributes:
        shard: shard id, None where it cannot be told.
        path: object concerned.
        kind: one word: missing, size, digest, index, status, commit, identity, metadata, duplicate.
        detail: what came and what was expected.
    """

    shard: int | None
    path: str
    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitLog:
    """All commit records of a cache.

    Attributes:
        commits: shard id → record, only sound records of the cache's own identity.
        faults: damaged records and records of another identity.
    """

    commits: dict[int, ShardCommit]
    faults: list[Fault]


def write_shard(
    storage: Storage, spec: CacheSpec, shard_id: int, arrays: dict[str, np.ndarray[Any, Any]]
) -> dict[str, dict[str, Any]]:
    """Encode and write the objects of one shard; nothing counts until `commit_shard`.

    Args:
        storage: of a cache that `create_cache` made.
        spec: of that cache.
        shard_id: which shard.
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
    encoded = {
        layout.object_path(shard_id): encode_object(layout, arrays[name]) for name, layout in layouts.items()
    }
    # asked last: a worker whose driver is long gone must not write over a finished shard
    if record := read_commit(storage, spec.identity, shard_id):
        raise ObjectExistsError(_taken(record))
    for path, data in encoded.items():
        storage.write(path, data)
    return {
        path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in encoded.items()
    }


def commit_shard(storage: Storage, commit: ShardCommit) -> None:
    """Write the shard's record, create-only; the last step of a shard.

    A record that is damaged or of another identity is replaced. If another run committed the shard meanwhile,
    whichever record tells the truth about the stored objects stays.

    Raises:
        ObjectExistsError: another run's record stands.
    """
    path = _record_path(commit.shard_id)
    line = commit.to_bytes()
    try:
        storage.write_new(path, line)
        return
    except ObjectExistsError:
        standing = read_commit(storage, commit.identity, commit.shard_id)
    if standing is not None and standing.objects == commit.objects:
        return
    if standing is None or _holds(storage, commit):
        storage.write(path, line)
        return
    if not _holds(storage, standing):
        storage.delete(path)
    raise ObjectExistsError(_taken(standing))


def read_commit(storage: Storage, identity: str, shard_id: int) -> ShardCommit | None:
    """Return the shard's sound record of this identity, None if there is none."""
    block = _block_path(shard_id // _BLOCK_SHARDS)
    for path in (_record_path(shard_id), block):
        try:
            data = storage.read(path)
        except MissingFileError:
            continue
        for line in data.splitlines(keepends=True) if path == block else [data]:
            try:
                commit = ShardCommit.from_bytes(line, path)
            except CorruptDataError:
                continue
            if commit.shard_id == shard_id and commit.identity == identity:
                return commit
    return None


def scan_commits(storage: Storage, spec: CacheSpec) -> CommitLog:
    """Read all commit records, several at a time where the storage is remote."""
    commits: dict[int, ShardCommit] = {}
    faults: list[Fault] = []
    identity, layouts = spec.identity, spec.array_layout()
    for path, data in _read_log(storage):
        single = _SINGLE.fullmatch(path)
        shard = int(single[1]) if single else None
        for line in [data] if single else data.splitlines(keepends=True):
            try:
                commit = ShardCommit.from_bytes(line, path)
            except CorruptDataError as error:
                faults.append(Fault(shard=shard, path=path, kind="commit", detail=str(error)))
                continue
            if commit.identity != identity:
                detail = f"belongs to the cache {commit.identity}, expected {identity}"
                faults.append(Fault(shard=commit.shard_id, path=path, kind="identity", detail=detail))
            elif shard not in (None, commit.shard_id) or not _fits(commit, spec, layouts):
                detail = f"does not describe this shard: it names shard {commit.shard_id}, {commit.objects}"
                faults.append(Fault(shard=shard, path=path, kind="commit", detail=detail))
            else:
                commits[commit.shard_id] = commit
    return CommitLog(commits=dict(sorted(commits.items())), faults=faults)


def _read_log(storage: Storage) -> list[tuple[str, bytes]]:
    """Return path and bytes of every record, compacted ones first so that single ones win."""

    def read(path: str) -> bytes | None:
        try:
            return storage.read(path)
        except MissingFileError:
            return None

    while True:
        paths = [p for p in storage.paths("commits") if _SINGLE.fullmatch(p) or _COMPACTED.fullmatch(p)]
        paths.sort(key=lambda path: (_SINGLE.fullmatch(path) is not None, path))
        records = list(zip(paths, storage.map_parallel(read, paths), strict=True))
        found = [(path, data) for path, data in records if data is not None]
        if len(found) == len(records):
            return found
        # records vanished between listing and reading: they were compacted or dropped, so list again


def _fits(commit: ShardCommit, spec: CacheSpec, layouts: dict[str, ArrayLayout]) -> bool:
    if not 0 <= commit.shard_id < spec.num_shards:
        return False
    num_rows = len(spec.shard_rows(commit.shard_id))
    sizes = {path: entry.get("bytes") for path, entry in commit.objects.items()}
    expected = {
        layout.object_path(commit.shard_id): object_bytes(layout, num_rows) for layout in layouts.values()
    }
    return sizes == expected and len(commit.status) == num_rows


def list_commits(storage: Storage, spec: CacheSpec) -> dict[int, ShardCommit]:
    """Return shard id → record of every committed shard."""
    return scan_commits(storage, spec).commits


def pending_shards(storage: Storage, spec: CacheSpec) -> list[int]:
    """Return the shards that are not committed, in order."""
    commits = list_commits(storage, spec)
    return [shard for shard in range(spec.num_shards) if shard not in commits]


def drop_commits(storage: Storage, spec: CacheSpec, shard_ids: Iterable[int]) -> None:
    """Delete the records of these shards, so that the next run of the same command makes them anew.

    Only while no run is writing the cache. Damaged lines of a compacted block that held one of the shards go
    as well.
    """
    dropped = set(shard_ids)
    for block in {shard // _BLOCK_SHARDS for shard in dropped}:
        try:
            lines = storage.read(_block_path(block)).splitlines(keepends=True)
        except MissingFileError:
            continue
        for line in lines:
            try:
                commit = ShardCommit.from_bytes(line, _block_path(block))
            except CorruptDataError:
                continue
            if commit.shard_id not in dropped and not storage.exists(_record_path(commit.shard_id)):
                storage.write(_record_path(commit.shard_id), line)
        storage.delete(_block_path(block))
    for shard in dropped:
        storage.delete(_record_path(shard))


def compact_commits(storage: Storage, spec: CacheSpec) -> int:
    """Move the records of every full block of 1000 shards into one object; return how many blocks moved.

    Opening a cache of 200,000 shards then takes 200 reads. Only while no run is writing the cache; killed at
    any point, no record is lost.
    """
    commits = list_commits(storage, spec)
    present = set(storage.paths("commits"))
    moved = 0
    for first in range(0, spec.num_shards, _BLOCK_SHARDS):
        shards = range(first, min(first + _BLOCK_SHARDS, spec.num_shards))
        singles = [path for path in map(_record_path, shards) if path in present]
        if singles and all(shard in commits for shard in shards):
            lines = b"".join(commits[shard].to_bytes() for shard in shards)
            storage.write(_block_path(first // _BLOCK_SHARDS), lines)
            for _ in storage.map_parallel(storage.delete, singles):
                pass
            moved += 1
    return moved


def _record_path(shard_id: int) -> str:
    return f"commits/{shard_id:08d}.json"


def _block_path(block: int) -> str:
    return f"commits/compacted-{block:08d}.jsonl"


def _holds(storage: Storage, commit: ShardCommit) -> bool:
    """Return whether the stored objects are those of this record."""
    try:
        return all(
            hashlib.sha256(storage.read(path)).hexdigest() == entry["sha256"]
            for path, entry in commit.objects.items()
        )
    except MissingFileError:
        return False


def _taken(record: ShardCommit) -> str:
    return f"shard {record.shard_id} was committed already, by run {record.run_id!r}; this result is dropped"


def _without_nan(value: Any) -> Any:
    """Return `value` with None for the floats that JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
