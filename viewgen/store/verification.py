"""Verification of a cache against its commit records, and repair: faulty shards become pending again."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.status import Status
from viewgen.store.cache import RUN_FOLDER, read_spec
from viewgen.store.commits import Fault, ShardCommit, scan_commits
from viewgen.store.compaction import void_records
from viewgen.store.encoding import decode_object
from viewgen.store.metadata import metadata_problem
from viewgen.store.names import attempt_path, block_of, block_of_path
from viewgen.store.quality import QUALITY_FOLDER
from viewgen.store.shards import superseded_objects
from viewgen.store.spec import ArrayLayout, CacheSpec
from viewgen.store.storage import Storage, open_storage

__all__ = ["VerifyReport", "repair_cache", "verify_cache"]

# Shards in memory at once while verifying a remote cache.
_PARALLEL_SHARDS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """Result of `verify_cache`.

    Attributes:
        url: URL of the cache.
        num_shards: number of shards of a complete cache.
        committed: number of committed shards.
        faults: differences from the commit records.
        missing: ids of shards that are not committed.
        quarantined: rows whose views could not be made (status 3).
        notes: objects that do not belong to the cache; not faults.
        superseded: objects of attempts at committed shards that another attempt has committed.
    """

    url: str
    num_shards: int
    committed: int
    faults: list[Fault]
    missing: list[int]
    quarantined: list[int]
    notes: list[str]
    superseded: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if the cache is sound, complete and without quarantined rows."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """5 with faults, 4 if shards or rows are missing, otherwise 0."""
        if self.faults:
            return CorruptDataError.exit_code
        return 4 if self.missing or self.quarantined else 0


def verify_cache(
    url: str,
    storage_options: dict[str, Any] | None = None,
    *,
    contents: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Read every committed object and compare it with its record.

    Args:
        url: URL of the cache.
        storage_options: options of fsspec.
        contents: False to read no object, and to compare its presence and size alone.
        progress: callback called with (shards done, shards to do).

    Returns:
        The report; faults do not raise.

    Raises:
        MissingFileError: there is no cache at the URL.
        StorageError: the URL cannot be read.
    """
    storage = open_storage(url, storage_options)
    try:
        spec = read_spec(storage)
    except CorruptDataError as error:
        fault = Fault(shard=None, path="zarr.json", kind="metadata", detail=str(error))
        return VerifyReport(
            url=storage.url, num_shards=0, committed=0, faults=[fault], missing=[], quarantined=[], notes=[]
        )
    # listed before the records are read: what they supersede then is superseded for ever
    sizes = {} if contents else storage.sizes()
    paths = storage.paths() if contents else sorted(sizes)
    log = scan_commits(storage, spec)
    faults = [*log.faults, *_metadata_faults(storage, spec)]
    commits = log.commits.values()
    if progress:
        progress(0, len(commits))
    sources = []

    def verified(commit: ShardCommit) -> tuple[list[Fault], Any]:
        if contents:
            return _verify_shard(storage, spec, commit)
        return _compare_sizes(storage, commit, sizes), np.empty(0, np.int64)

    for done, (shard_faults, source_index) in enumerate(
        storage.map_parallel(verified, commits, _PARALLEL_SHARDS), 1
    ):
        faults += shard_faults
        sources.append(source_index)
        if progress:
            progress(done, len(commits))
    faults += _duplicates(spec, list(commits), sources)
    superseded = superseded_objects(paths, spec, log.commits)
    return VerifyReport(
        url=storage.url,
        num_shards=spec.num_shards,
        committed=len(commits),
        faults=faults,
        missing=[shard for shard in range(spec.num_shards) if shard not in log.commits],
        quarantined=[
            row
            for commit in commits
            for row, code in zip(spec.shard_rows(commit.shard_id), commit.status, strict=True)
            if code == Status.FAILED
        ],
        notes=_notes(paths, superseded, storage.leftovers(), spec, log.commits),
        superseded=superseded,
    )


def repair_cache(url: str, storage_options: dict[str, Any] | None, report: VerifyReport) -> list[int]:
    """Withdraw the records of the faulty shards, so that the next run of the cache command makes them again.

    A damaged ``zarr.json`` of the group cannot be repaired; the next run writes those of the arrays again.

    Returns:
        shards whose records were withdrawn.
    """
    storage = open_storage(url, storage_options)
    faulty: dict[int, int] = {}
    for fault in report.faults:
        if fault.shard is not None:
            faulty[fault.shard] = max(fault.generation, faulty.get(fault.shard, 0))
    # a damaged line of a block cannot tell its shard, which is one of the missing ones of that block
    blocks = {block_of_path(fault.path) for fault in report.faults if fault.shard is None} - {None}
    unnamed = {shard: 0 for shard in report.missing if block_of(shard) in blocks}
    void_records(storage, unnamed | faulty)
    return sorted(faulty)


def _verify_shard(storage: Storage, spec: CacheSpec, commit: ShardCommit) -> tuple[list[Fault], Any]:
    """Return the faults of one shard, and its source indices (empty if they cannot be read)."""
    faults = []
    source_index: Any = np.empty(0, np.int64)
    num_rows = len(spec.shard_rows(commit.shard_id))
    for name, layout in spec.array_layout().items():
        path = commit.path_of(layout)
        entry = commit.objects[path]
        kind, detail = "", ""
        try:
            # at most one byte more than was committed: an object may have grown beyond the memory
            data = storage.read_range(path, 0, entry["bytes"] + 1)
            if len(data) != entry["bytes"]:
                size = len(data) if len(data) < entry["bytes"] else storage.size(path)
                kind, detail = "size", f"has {size} bytes, {entry['bytes']} were committed"
            elif (digest := hashlib.sha256(data).hexdigest()) != entry["sha256"]:
                kind, detail = "digest", f"has sha256 {digest[:12]}…, {entry['sha256'][:12]}… was committed"
            else:
                rows = decode_object(layout, data, num_rows, path)
                if name == "source_index":
                    source_index = rows
                if name == "status" and rows.tobytes() != commit.status:
                    kind, detail = "status", "differs from the status in the commit record"
        except MissingFileError:
            kind, detail = "missing", "does not exist, though its shard is committed"
        except CorruptDataError as error:
            kind, detail = "index", str(error)
        if kind:
            faults.append(
                Fault(
                    shard=commit.shard_id,
                    path=path,
                    kind=kind,
                    detail=detail,
                    generation=commit.generation,
                )
            )
    return faults, source_index


def _compare_sizes(storage: Storage, commit: ShardCommit, sizes: Mapping[str, int]) -> list[Fault]:
    """Return the faults of one shard that presence and size of its objects tell.

    The listing is older than the record: what it contradicts is looked at again.
    """
    faults = []
    for path, entry in commit.objects.items():
        if sizes.get(path) == entry["bytes"] or (found := storage.size(path)) == entry["bytes"]:
            continue
        kind, detail = "missing", "does not exist, though its shard is committed"
        if found is not None:
            kind, detail = "size", f"has {found} bytes, {entry['bytes']} were committed"
        faults.append(
            Fault(shard=commit.shard_id, path=path, kind=kind, detail=detail, generation=commit.generation)
        )
    return faults


def _metadata_faults(storage: Storage, spec: CacheSpec) -> list[Fault]:
    faults = []
    for name, layout in spec.array_layout().items():
        path = f"{name}/zarr.json"
        try:
            problem = metadata_problem(layout, storage.read(path))
        except MissingFileError:
            problem = "does not exist"
        except CorruptDataError as error:
            problem = str(error)
        if problem:
            detail = f"{problem}; the next run of the cache command writes it again"
            faults.append(Fault(shard=None, path=path, kind="metadata", detail=detail))
    return faults


def _duplicates(spec: CacheSpec, commits: list[ShardCommit], sources: list[Any]) -> list[Fault]:
    """Return a fault for every shard that repeats a source image of an earlier row."""
    if not sources:
        return []
    by_shard = {commit.shard_id: commit for commit in commits}
    owner = np.repeat(list(by_shard), [len(source) for source in sources])
    values, first, counts = np.unique(np.concatenate(sources), return_index=True, return_counts=True)
    repeated = np.setdiff1d(np.arange(len(owner)), first)
    faults = []
    for shard_id in np.unique(owner[repeated]).tolist():
        commit = by_shard[shard_id]
        path = commit.path_of(spec.array_layout()["source_index"])
        detail = f"repeats source images of other rows; {values[counts > 1][:5].tolist()} occur twice"
        faults.append(
            Fault(shard=shard_id, path=path, kind="duplicate", detail=detail, generation=commit.generation)
        )
    return faults


def _notes(
    paths: list[str],
    superseded: list[str],
    temporary: list[str],
    spec: CacheSpec,
    commits: dict[int, ShardCommit],
) -> list[str]:
    """Describe the objects that belong to no committed shard."""
    layouts = spec.array_layout()
    known = {"zarr.json", *(f"{name}/zarr.json" for name in layouts)}
    known.update(path for commit in commits.values() for path in commit.objects)
    others = [
        path
        for path in paths
        if path not in known and not path.startswith(("commits/", f"{RUN_FOLDER}/", f"{QUALITY_FOLDER}/"))
    ]
    late = set(superseded)
    # beside the committed objects with a name of their own lie their copies for plain Zarr
    copied = {attempt[0] for path in known if (attempt := attempt_path(path))}
    plain = {path: attempt[0] if (attempt := attempt_path(path)) else path for path in others}
    leftovers = [
        path
        for path in others
        if _belongs(plain[path], layouts, spec.num_shards) and path not in late | copied
    ]
    foreign = [path for path in others if not _belongs(plain[path], layouts, spec.num_shards)]
    notes = []
    if leftovers:
        notes.append(f"{len(leftovers)} objects of uncommitted shards, left by a run that was stopped")
    if late:
        notes.append(f"{len(late)} objects of attempts that came too late; the next run deletes them")
    if foreign:
        notes.append(f"{len(foreign)} objects that are not the cache's: {', '.join(foreign[:3])}")
    if temporary:
        notes.append(
            f"{len(temporary)} temporary files of writers that were killed, or are at work: "
            f"{', '.join(temporary[:3])}; the next run removes those that are older than an hour"
        )
    return notes


def _belongs(path: str, layouts: Mapping[str, ArrayLayout], num_shards: int) -> bool:
    """Return whether a path is that of an object of one of the shards."""
    name, _, object_name = path.partition("/")
    number = object_name.removeprefix("c.").partition(".")[0]
    if name not in layouts or not number.isascii() or not number.isdigit() or len(number) > 10:
        return False
    return int(number) < num_shards and layouts[name].object_path(int(number)) == path
