"""Commit records: a shard exists if and only if it has one.

A shard's objects are written first, its record ``commits/00000042.json`` last and create-only. Readers,
resuming runs and `verify` trust records alone; objects without a record are leftovers of a killed run.

A record is one line of JSON that ends with a digest of itself. Long logs are compacted
(`viewgen.store.compaction`): the records of a block of 1000 shards move, line by line, into
``commits/compacted-00000007.jsonl``. Where both are present the block's line wins: it was there first.

No record is ever replaced. One that is found to be wrong is withdrawn by a mark, ``commits/00000042-1.void``,
and the shard's next record is ``commits/00000042-1.json``: the number is the record's generation. A process
that was stopped for however long therefore finds no name at which it could undo what others have committed
since (docs/design/attempts.md).
"""

import base64
import contextlib
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.store.encoding import CHECKSUM_BYTES, num_chunks, object_bytes
from viewgen.store.spec import ArrayLayout, CacheSpec, canonical_json
from viewgen.store.storage import ObjectExistsError, Storage

__all__ = [
    "CommitLog",
    "Fault",
    "ShardCommit",
    "commit_shard",
    "list_commits",
    "pending_shards",
    "read_commit",
    "scan_commits",
    "standing_record",
    "void_records",
]

# Shards whose records make one object of a compacted log.
_BLOCK_SHARDS = 1000
_SINGLE = re.compile(r"commits/(\d{8,})(?:-([1-9]\d{0,8}))?\.json")
_VOID = re.compile(r"commits/(\d{8,})-([1-9]\d{0,8})\.void")
# The end of the name of an object that is not at its plain Zarr name: generation, token of the attempt.
_ATTEMPT = re.compile(r"\.(\d{1,9})-[0-9a-f]{12}$")
_ATTEMPT_PATH = re.compile(r"([a-z0-9_]+/c\.(\d{1,18})(?:\.0)*)\.\d{1,9}-[0-9a-f]{12}")
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
        objects: path → {"bytes": size, "sha256": hexadecimal digest, "crc32c": the chunks' checksums in
            base64} of every object of the shard; records of 0.1.0 have no "crc32c".
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

    @property
    def generation(self) -> int:
        """Number of withdrawn records of the shard before this one, part of the names of its objects."""
        ends = [_ATTEMPT.search(path) for path in self.objects]
        return max((int(end[1]) for end in ends if end), default=0)

    def path_of(self, layout: ArrayLayout) -> str:
        """Return the path of the object of an array: the plain Zarr name, or one of the attempt's own."""
        plain = layout.object_path(self.shard_id)
        if plain in self.objects:
            return plain
        return next(path for path in self.objects if path.startswith(f"{plain}."))

    def checksums(self, layout: ArrayLayout) -> bytes | None:
        """Return the checksums of an object's chunks, four bytes each; None in a record of 0.1.0."""
        text = self.objects[self.path_of(layout)].get("crc32c")
        return None if text is None else base64.b64decode(text)

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
            document = json.loads(body + b"}")
            document["status"] = document["status"].encode().translate(_FROM_DIGITS)
            return cls(**document)
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
        generation: generation of the record at fault.
    """

    shard: int | None
    path: str
    kind: str
    detail: str
    generation: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitLog:
    """All commit records of a cache.

    Attributes:
        commits: shard id → record; only sound records of the cache's own identity.
        faults: damaged records, and records of another identity.
        generations: shard id → number of its withdrawn records, where there are any.
    """

    commits: dict[int, ShardCommit]
    faults: list[Fault]
    generations: dict[int, int]


def commit_shard(storage: Storage, commit: ShardCommit) -> None:
    """Write the shard's record, create-only; the last step of a shard.

    Raises:
        ObjectExistsError: another attempt's record stands.
        CorruptDataError: a damaged record stands, or one of another cache; the next run withdraws it.
    """
    path = record_path(commit.shard_id, commit.generation)
    try:
        storage.write_new(path, commit.to_bytes())
    except ObjectExistsError:
        # also after a lost answer: the record that stands may be this one
        standing = _record(storage, commit.identity, commit.shard_id, commit.generation)
        if standing is None:
            raise CorruptDataError(
                f"{path} is damaged or belongs to another cache; the same command, run again, withdraws it"
            ) from None
    else:
        # another attempt's record may have moved into its block, whose line wins
        standing = _record_in_block(storage, commit.identity, commit.shard_id, commit.generation)
        if standing is None:
            return
    if _contents(standing) != _contents(commit):
        raise ObjectExistsError(taken_message(standing))


def _contents(commit: ShardCommit) -> dict[str, tuple[Any, Any]]:
    return {path: (entry.get("bytes"), entry.get("sha256")) for path, entry in commit.objects.items()}


def standing_record(storage: Storage, identity: str, shard_id: int) -> tuple[int, ShardCommit | None]:
    """Return the shard's generation, and its sound record of that generation, None if there is none."""
    generation = 0
    while True:
        commit = _record(storage, identity, shard_id, generation)
        # asked last: a record counts unless it was withdrawn before it was read
        if not storage.exists(void_path(shard_id, generation + 1)):
            return generation, commit
        generation += 1


def read_commit(storage: Storage, identity: str, shard_id: int) -> ShardCommit | None:
    """Return the shard's sound record of this identity, None if there is none."""
    return standing_record(storage, identity, shard_id)[1]


def _record(storage: Storage, identity: str, shard_id: int, generation: int) -> ShardCommit | None:
    """Return the record of one generation; a block, looked at after the shard's own file, wins."""
    path = record_path(shard_id, generation)
    single = None
    with contextlib.suppress(MissingFileError, CorruptDataError):
        commit = ShardCommit.from_bytes(storage.read(path), path)
        if (commit.shard_id, commit.identity, commit.generation) == (shard_id, identity, generation):
            single = commit
    return _record_in_block(storage, identity, shard_id, generation) or single


def _record_in_block(storage: Storage, identity: str, shard_id: int, generation: int) -> ShardCommit | None:
    path = block_path(block_of(shard_id))
    with contextlib.suppress(MissingFileError):
        for line in storage.read(path).splitlines(keepends=True):
            if b'"shard_id":%d,' % shard_id not in line:
                continue
            with contextlib.suppress(CorruptDataError):
                commit = ShardCommit.from_bytes(line, path)
                if (commit.shard_id, commit.identity, commit.generation) == (shard_id, identity, generation):
                    return commit
    return None


def scan_commits(storage: Storage, spec: CacheSpec) -> CommitLog:
    """Read all commit records, several at a time where the storage is remote.

    The shards' own records are read first, then the blocks that are there by then: a record that moves into
    its block meanwhile is seen in one of them, and a late attempt's record never without the one that it
    came too late for.
    """
    check = RecordCheck(spec)
    found: dict[tuple[int, int], ShardCommit] = {}
    faults: list[Fault] = []

    def take(line: bytes, path: str, place: tuple[int, int] | None) -> None:
        shard, generation = place or (None, 0)
        try:
            commit = ShardCommit.from_bytes(line, path)
        except CorruptDataError as error:
            kind, detail = "commit", str(error)
        else:
            named = (commit.shard_id, commit.generation)
            shard, generation = place or named
            if commit.identity != check.identity:
                kind = "identity"
                detail = f"belongs to the cache {commit.identity}, expected {check.identity}"
            elif named != (shard, generation) or not check.fits(commit):
                kind = "commit"
                detail = f"does not describe this shard: it names shard {commit.shard_id}, {commit.objects}"
            else:
                found[named] = commit
                return
        faults.append(Fault(shard=shard, path=path, kind=kind, detail=detail, generation=generation))

    for path, data in _read_log(storage, storage.paths("commits"), _SINGLE):
        take(data, path, place_of_record(path))
    paths = storage.paths("commits")
    for path, data in _read_log(storage, paths, _COMPACTED):
        for line in data.splitlines(keepends=True):
            take(line, path, None)
    generations: dict[int, int] = {}
    for void in filter(None, map(_VOID.fullmatch, paths)):
        generations[int(void[1])] = max(int(void[2]), generations.get(int(void[1]), 0))
    commits = {
        shard: commit
        for (shard, generation), commit in sorted(found.items())
        if generation == generations.get(shard, 0)
    }
    faults = [fault for fault in faults if _matters(fault, spec, commits, generations)]
    return CommitLog(commits=commits, faults=faults, generations=generations)


def _read_log(storage: Storage, paths: list[str], kind: re.Pattern[str]) -> list[tuple[str, bytes]]:
    """Return path and bytes of every object of one kind, without those that have moved or gone."""

    def read(path: str) -> bytes | None:
        try:
            return storage.read(path)
        except MissingFileError:
            return None

    listed = [path for path in paths if kind.fullmatch(path)]
    read_back = zip(listed, storage.map_parallel(read, listed), strict=True)
    return [(path, data) for path, data in read_back if data is not None]


def _matters(
    fault: Fault, spec: CacheSpec, commits: Mapping[int, ShardCommit], generations: Mapping[int, int]
) -> bool:
    """Return True unless the record at fault was withdrawn, or nothing is missing for it."""
    if fault.shard is not None:
        return fault.shard not in commits and fault.generation >= generations.get(fault.shard, 0)
    block = block_of_path(fault.path)
    assert block is not None, fault
    return any(shard not in commits.keys() | generations.keys() for shard in block_shards(spec, block))


def void_records(storage: Storage, generations: Mapping[int, int]) -> None:
    """Withdraw records, so that the next run of the same command makes their shards again.

    Args:
        storage: storage of the cache.
        generations: shard id → generation of the record that was found to be wrong. A newer record stays.
    """
    for shard_id, generation in generations.items():
        with contextlib.suppress(ObjectExistsError):
            storage.write_new(void_path(shard_id, generation + 1), b"void\n")
        storage.delete(record_path(shard_id, generation))


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
        if len(commit.objects) != len(self._layouts) or len(commit.status) != num_rows:
            return False
        plain = {layout.object_path(commit.shard_id): layout for layout in self._layouts}
        sizes = dict(zip(plain, self._sizes[num_rows], strict=True))
        names = dict(zip(commit.objects, commit.objects, strict=True))
        if commit.objects.keys() != plain.keys():
            ends = {path: _ATTEMPT.search(path) for path in commit.objects}
            if len({int(end[1]) if end else 0 for end in ends.values()}) > 1:
                return False
            names = {path: path[: end.start()] if end else path for path, end in ends.items()}
        for path, name in names.items():
            entry = commit.objects[path]
            if name not in plain or entry.get("bytes") != sizes.pop(name, None):
                return False
            if not _are_checksums(entry.get("crc32c"), num_chunks(plain[name], num_rows)):
                return False
        return True


def list_commits(storage: Storage, spec: CacheSpec) -> dict[int, ShardCommit]:
    """Return shard id → record of every committed shard."""
    return scan_commits(storage, spec).commits


def pending_shards(storage: Storage, spec: CacheSpec) -> list[int]:
    """Return the shards that are not committed, in order."""
    commits = list_commits(storage, spec)
    return [shard for shard in range(spec.num_shards) if shard not in commits]


def record_path(shard_id: int, generation: int = 0) -> str:
    """Path of a shard's own record."""
    return f"commits/{shard_id:08d}{f'-{generation}' if generation else ''}.json"


def void_path(shard_id: int, generation: int) -> str:
    """Path of the mark by which a shard's records of earlier generations do not count."""
    return f"commits/{shard_id:08d}-{generation}.void"


def block_of(shard_id: int) -> int:
    """Return the number of the shard's block."""
    return shard_id // _BLOCK_SHARDS


def block_of_path(path: str) -> int | None:
    """Return the number of the block at `path`; None for any other path."""
    match = _COMPACTED.fullmatch(path)
    return int(match[1]) if match else None


def block_shards(spec: CacheSpec, block: int) -> range:
    """Return the shards of a block."""
    return range(block * _BLOCK_SHARDS, min((block + 1) * _BLOCK_SHARDS, spec.num_shards))


def block_path(block: int) -> str:
    """Path of the object of a block's compacted records."""
    return f"commits/compacted-{block:08d}.jsonl"


def place_of_record(path: str) -> tuple[int, int] | None:
    """Return shard and generation of the shard's own record at `path`; None for any other path."""
    match = _SINGLE.fullmatch(path)
    return (int(match[1]), int(match[2] or 0)) if match else None


def _are_checksums(text: Any, num_chunks: int) -> bool:
    """Return True for the text of as many checksums, and for None."""
    if text is None:
        return True
    try:
        return len(base64.b64decode(text, validate=True)) == num_chunks * CHECKSUM_BYTES
    except (ValueError, TypeError):
        return False


def attempt_path(path: str) -> tuple[str, int] | None:
    """Return plain Zarr name and shard of an object with an attempt's own name; None for any other path."""
    match = _ATTEMPT_PATH.fullmatch(path)
    return (match[1], int(match[2])) if match else None


def taken_message(record: ShardCommit) -> str:
    """Describe a shard that another attempt has committed."""
    return f"shard {record.shard_id} was committed already, by run {record.run_id!r}; this result is dropped"


def _without_nan(value: Any) -> Any:
    """Return `value` with None for the floats that JSON cannot represent."""
    if isinstance(value, dict):
        return {str(key): _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
