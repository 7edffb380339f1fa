"""Commit records: a shard exists if and only if it has one.

A shard's objects are written first, its record ``commits/00000042.json`` last and create-only. Readers,
resuming runs and `verify` trust records alone; objects without a record are leftovers of a killed run.

A record is one line of JSON that ends with a digest of itself. Long logs are compacted
(`viewgen.store.compaction`): the records of a block of 1000 shards move, line by line, into
``commits/compacted-00000007.jsonl``. Where both are present the block's line wins: it was there first.

No record is ever replaced. One that is found to be wrong is withdrawn by a mark, ``commits/00000042-1.void``,
and the shard's next record is ``commits/00000042-1.json``: the number is the record's generation. A process
that was stopped for however long therefore finds no name at which it could undo what others have committed
since (docs/design/0001-attempts.md).
"""

import base64
import contextlib
import hashlib
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from viewgen.documents import checked, parse_json
from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.store.bounds import Record
from viewgen.store.encoding import CHECKSUM_BYTES, num_chunks, object_bytes
from viewgen.store.names import (
    ATTEMPT,
    block_of,
    block_of_path,
    block_path,
    block_shards,
    place_of_record,
    place_of_void,
    record_path,
    void_path,
)
from viewgen.store.spec import ArrayLayout, CacheSpec, canonical_json
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
    "standing_record",
    "taken_message",
]

_DIGEST = b',"digest":"%s"}\n'
_TO_DIGITS = bytes.maketrans(bytes(range(10)), b"0123456789")
_FROM_DIGITS = bytes.maketrans(b"0123456789", bytes(range(10)))


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
        ends = [path.rpartition(".")[2] for path in self.objects if "-" in path]
        return max((int(end.partition("-")[0]) for end in ends if ATTEMPT.fullmatch(f".{end}")), default=0)

    def path_of(self, layout: ArrayLayout) -> str:
        """Return the path of the object of an array: the plain Zarr name, or one of the attempt's own."""
        plain = layout.object_path(self.shard_id)
        if plain in self.objects:
            return plain
        return next(path for path in self.objects if path.startswith(f"{plain}."))

    def checksums(self, layout: ArrayLayout) -> bytes | None:
        """Return the checksums of an object's chunks, four bytes each; None in a record of 0.1.0."""
        path = self.path_of(layout)
        text = self.objects[path].get("crc32c")
        try:
            return None if text is None else base64.b64decode(text, validate=True)
        except ValueError as error:
            raise CorruptDataError(
                f"the commit record of shard {self.shard_id} has unreadable checksums of {path}: {error}"
            ) from error

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


def scan_commits(storage: Storage, spec: CacheSpec, blocks: Container[int] | None = None) -> CommitLog:
    """Read commit records, several at a time where the storage is remote.

    The shards' own records are read first, then the blocks that are there by then: a record that moves into
    its block meanwhile is seen in one of them, and a late attempt's record never without the one that it
    came too late for.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        blocks: numbers of the blocks of shards whose records are read; by default all.
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

    places = {path: place_of_record(path) for path in storage.paths("commits")}
    singles = [p for p, place in places.items() if place and (blocks is None or block_of(place[0]) in blocks)]
    for path, data in _read_log(storage, singles):
        take(data, path, places[path])
    paths = storage.paths("commits")
    compacted = {path: block for path in paths if (block := block_of_path(path)) is not None}
    wanted = [path for path, block in compacted.items() if blocks is None or block in blocks]
    for path, data in _read_log(storage, wanted):
        for line in data.splitlines(keepends=True):
            take(line, path, None)
    generations: dict[int, int] = {}
    for shard, generation in filter(None, map(place_of_void, paths)):
        generations[shard] = max(generation, generations.get(shard, 0))
    commits = {
        shard: commit
        for (shard, generation), commit in sorted(found.items())
        if generation == generations.get(shard, 0)
    }
    faults = [fault for fault in faults if _matters(fault, spec, commits, generations)]
    return CommitLog(commits=commits, faults=faults, generations=generations)


def _read_log(storage: Storage, paths: list[str]) -> list[tuple[str, bytes]]:
    """Return path and bytes of the objects, without those that have moved or gone."""

    def read(path: str) -> bytes | None:
        try:
            return storage.read(path)
        except MissingFileError:
            return None
        except CorruptDataError:
            return b"\n"  # too large, or no file at all: a record without a digest

    read_back = zip(paths, storage.map_parallel(read, paths), strict=True)
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


class RecordCheck:
    """A check that records describe the shards of one cache; computes the layout of the arrays only once."""

    def __init__(self, spec: CacheSpec) -> None:
        self.spec = spec
        self.identity = spec.identity
        self._layouts = list(spec.array_layout().values())
        self._expected: dict[int, list[tuple[int, int]]] = {}

    def fits(self, commit: ShardCommit) -> bool:
        """Return True if the record names the shard's objects with their sizes, and a status for each row."""
        if not 0 <= commit.shard_id < self.spec.num_shards:
            return False
        num_rows = len(self.spec.shard_rows(commit.shard_id))
        if len(commit.objects) != len(self._layouts) or len(commit.status) != num_rows:
            return False
        if num_rows not in self._expected:
            chunks = [num_chunks(layout, num_rows) for layout in self._layouts]
            texts = [len(base64.b64encode(bytes(CHECKSUM_BYTES * count))) for count in chunks]
            sizes = [object_bytes(layout, num_rows) for layout in self._layouts]
            self._expected[num_rows] = list(zip(sizes, texts, strict=True))
        generation = commit.generation
        for layout, (size, text_length) in zip(self._layouts, self._expected[num_rows], strict=True):
            path = layout.object_path(commit.shard_id)
            entry = None if generation else commit.objects.get(path)
            if entry is None:
                ends = (name[len(path) :] for name in commit.objects if name.startswith(f"{path}."))
                end = next(filter(ATTEMPT.fullmatch, ends), None)
                if end is None or int(end[1:].partition("-")[0]) != generation:
                    return False
                entry = commit.objects[path + end]
            text = entry.get("crc32c")
            if entry.get("bytes") != size or not (
                text is None or (isinstance(text, str) and len(text) == text_length)
            ):
                return False
        return True


def list_commits(storage: Storage, spec: CacheSpec) -> dict[int, ShardCommit]:
    """Return shard id → record of every committed shard."""
    return scan_commits(storage, spec).commits


def pending_shards(storage: Storage, spec: CacheSpec) -> list[int]:
    """Return the shards that are not committed, in order."""
    commits = list_commits(storage, spec)
    return [shard for shard in range(spec.num_shards) if shard not in commits]


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
