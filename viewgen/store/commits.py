"""Commit records: a shard exists if and only if it has one.

A shard's objects are written first, its record ``commits/00000042.json`` last and create-only. Readers,
resuming runs and `verify` trust records alone; objects without a record are leftovers of a killed run.

A record is one line of JSON that ends with a digest of itself. Long logs are compacted
(`viewgen.store.compaction`): the records of a block of 1000 shards move, line by line, into
``commits/compacted-00000007.jsonl``. Where both are present the shard's own file wins.
"""

import contextlib
import hashlib
import math
import re
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from viewgen.documents import checked, parse_json
from viewgen.errors import CorruptDataError, DataError, MissingFileError
from viewgen.store.bounds import Record
from viewgen.store.encoding import encode_object, object_bytes
from viewgen.store.spec import CacheSpec, canonical_json
from viewgen.store.storage import MOST_RECORD_BYTES, ObjectExistsError, Storage

__all__ = [
    "CommitLog",
    "Fault",
    "ShardCommit",
    "commit_shard",
    "list_commits",
    "pending_shards",
    "read_commit",
    "scan_commits",
    "write_shard",
]

# Shards whose records make one object of a compacted log.
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
        shard_id: number of the shard.
        identity: identity of the cache's specification, `CacheSpec.identity`.
        objects: path → {"bytes": size, "sha256": hexadecimal digest} of every object of the shard.
        status: status code of each row of the shard, one byte each; any sequence of codes is accepted.
        failures: row of the cache → reason, for rows with status 3.
        attempt: number of attempts at the shard, from 1.
        run_id: id of the run that wrote the record.
        seconds: wall-clock time of the shard.
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
        """Return the record's line: canonical JSON that ends with the sha256 digest of the preceding text."""
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        document["status"] = self.status.translate(_TO_DIGITS).decode()
        document["stats"] = _without_nan(self.stats)
        body = canonical_json(document)[:-1]
        return body + _DIGEST % hashlib.sha256(body).hexdigest().encode()

    @classmethod
    def from_bytes(cls, line: bytes, place: str) -> "ShardCommit":
        """Read a record's line; CorruptDataError if it differs in any bit from the result of `to_bytes`."""
        body = line[: -len(_DIGEST % bytes(64))]
        try:
            if line[len(body) :] != _DIGEST % hashlib.sha256(body).hexdigest().encode():
                raise ValueError("its digest does not match its contents")
            document = parse_json(body + b"}", place, most_bytes=MOST_RECORD_BYTES, check_numbers=False)
            checked(Record, document)
            document["status"] = document["status"].encode().translate(_FROM_DIGITS)
            return cls(**document)
        except CorruptDataError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CorruptDataError(f"{place} is damaged: {error}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A difference between a cache and its commit records.

    Attributes:
        shard: shard id, None where it is unknown.
        path: path of the object.
        kind: one word: missing, size, digest, index, status, commit, identity, metadata, duplicate.
        detail: found and expected value.
    """

    shard: int | None
    path: str
    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitLog:
    """All commit records of a cache.

    Attributes:
        commits: shard id → record; only sound records of the cache's own identity.
        faults: damaged records, and records of another identity.
    """

    commits: dict[int, ShardCommit]
    faults: list[Fault]


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

    A damaged record or one of another identity is replaced. If another run committed the shard in the
    meantime, the record that matches the stored objects stays.

    Raises:
        ObjectExistsError: another run's record stands.
    """
    path = record_path(commit.shard_id)
    line = commit.to_bytes()
    try:
        storage.write_new(path, line)
    except ObjectExistsError:
        standing = read_commit(storage, commit.identity, commit.shard_id)
    else:
        # another run's record may have moved into its block, which compaction writes before it deletes
        standing = _read_in_block(storage, commit.identity, commit.shard_id)
        if standing is None or (standing.objects != commit.objects and _holds(storage, commit)):
            return
        storage.delete(path)
        if standing.objects != commit.objects:
            raise ObjectExistsError(_taken(standing))
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
    path = record_path(shard_id)
    with contextlib.suppress(MissingFileError, CorruptDataError):
        commit = ShardCommit.from_bytes(storage.read(path), path)
        if commit.shard_id == shard_id and commit.identity == identity:
            return commit
    return _read_in_block(storage, identity, shard_id)


def _read_in_block(storage: Storage, identity: str, shard_id: int) -> ShardCommit | None:
    path = block_path(block_of(shard_id))
    with contextlib.suppress(MissingFileError):
        for line in storage.read(path).splitlines(keepends=True):
            if b'"shard_id":%d,' % shard_id not in line:
                continue
            with contextlib.suppress(CorruptDataError):
                commit = ShardCommit.from_bytes(line, path)
                if commit.shard_id == shard_id and commit.identity == identity:
                    return commit
    return None


def scan_commits(storage: Storage, spec: CacheSpec) -> CommitLog:
    """Read all commit records, several at a time where the storage is remote."""
    commits: dict[int, ShardCommit] = {}
    faults: list[Fault] = []
    check = RecordCheck(spec)
    for path, data in _read_log(storage):
        single = _SINGLE.fullmatch(path)
        shard = int(single[1]) if single else None
        for line in [data] if single else data.splitlines(keepends=True):
            try:
                commit = ShardCommit.from_bytes(line, path)
            except CorruptDataError as error:
                faults.append(Fault(shard=shard, path=path, kind="commit", detail=str(error)))
                continue
            if commit.identity != check.identity:
                detail = f"belongs to the cache {commit.identity}, expected {check.identity}"
                faults.append(Fault(shard=commit.shard_id, path=path, kind="identity", detail=detail))
            elif shard not in (None, commit.shard_id) or not check.fits(commit):
                detail = f"does not describe this shard: it names shard {commit.shard_id}, {commit.objects}"
                faults.append(Fault(shard=shard, path=path, kind="commit", detail=detail))
            else:
                commits[commit.shard_id] = commit
    return CommitLog(commits=dict(sorted(commits.items())), faults=faults)


def _read_log(storage: Storage) -> list[tuple[str, bytes]]:
    """Return path and bytes of every record, compacted ones first, so that single records take precedence."""

    def read(path: str) -> bytes | None:
        try:
            return storage.read(path)
        except MissingFileError:
            return None
        except CorruptDataError:
            return b"\n"  # too large, or no file at all: a record without a digest

    found: dict[str, bytes] = {}
    while True:
        paths = [p for p in storage.paths("commits") if _SINGLE.fullmatch(p) or _COMPACTED.fullmatch(p)]
        new = [path for path in paths if path not in found]
        vanished = []
        for path, data in zip(new, storage.map_parallel(read, new), strict=True):
            if data is None:
                vanished.append(path)
            else:
                found[path] = data
        if not vanished:
            return sorted(found.items(), key=lambda entry: (_SINGLE.fullmatch(entry[0]) is not None, entry))
        # records vanished between listing and reading: they moved into their block or were dropped, so list
        # again, and take no block as it was before
        for path in vanished:
            shard_id = shard_of_record(path)
            if shard_id is not None:
                found.pop(block_path(block_of(shard_id)), None)


class RecordCheck:
    """A check that records describe the shards of one cache; computes the layout of the arrays only once."""

    def __init__(self, spec: CacheSpec) -> None:
        self.spec = spec
        self.identity = spec.identity
        self._layouts = list(spec.array_layout().values())
        self._sizes: dict[int, list[int]] = {}

    def fits(self, commit: ShardCommit) -> bool:
        """Return True if the record names the shard's objects with their sizes, and a status for each row."""
        if not 0 <= commit.shard_id < self.spec.num_shards:
            return False
        num_rows = len(self.spec.shard_rows(commit.shard_id))
        if num_rows not in self._sizes:
            self._sizes[num_rows] = [object_bytes(layout, num_rows) for layout in self._layouts]
        paths = [layout.object_path(commit.shard_id) for layout in self._layouts]
        expected = dict(zip(paths, self._sizes[num_rows], strict=True))
        sizes = {path: entry.get("bytes") for path, entry in commit.objects.items()}
        return sizes == expected and len(commit.status) == num_rows


def list_commits(storage: Storage, spec: CacheSpec) -> dict[int, ShardCommit]:
    """Return shard id → record of every committed shard."""
    return scan_commits(storage, spec).commits


def pending_shards(storage: Storage, spec: CacheSpec) -> list[int]:
    """Return the shards that are not committed, in order."""
    commits = list_commits(storage, spec)
    return [shard for shard in range(spec.num_shards) if shard not in commits]


def record_path(shard_id: int) -> str:
    """Path of a shard's own record."""
    return f"commits/{shard_id:08d}.json"


def block_of(shard_id: int) -> int:
    """Return the number of the shard's block."""
    return shard_id // _BLOCK_SHARDS


def block_shards(spec: CacheSpec, block: int) -> range:
    """Return the shards of a block."""
    return range(block * _BLOCK_SHARDS, min((block + 1) * _BLOCK_SHARDS, spec.num_shards))


def block_path(block: int) -> str:
    """Path of the object of a block's compacted records."""
    return f"commits/compacted-{block:08d}.jsonl"


def shard_of_record(path: str) -> int | None:
    """Return the shard whose own record is at `path`; None for any other path."""
    match = _SINGLE.fullmatch(path)
    return int(match[1]) if match else None


def _holds(storage: Storage, commit: ShardCommit) -> bool:
    """Return True if the stored objects are those of this record."""
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
    """Return `value` with None for the floats that JSON cannot represent."""
    if isinstance(value, dict):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
