"""Verification of a cache against its commit records, and repair: faulty shards become pending again."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.status import Status
from viewgen.store.cache import RUN_FOLDER, read_spec
from viewgen.store.commits import Fault, ShardCommit, scan_commits
from viewgen.store.compaction import drop_commits
from viewgen.store.encoding import decode_object
from viewgen.store.metadata import metadata_problem
from viewgen.store.quality import QUALITY_FOLDER
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
    """

    url: str
    num_shards: int
    committed: int
    faults: list[Fault]
    missing: list[int]
    quarantined: list[int]
    notes: list[str]

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
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Read every committed object and compare it with its record.

    Args:
        url: URL of the cache.
        storage_options: options of fsspec.
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
    log = scan_commits(storage, spec)
    faults = [*log.faults, *_metadata_faults(storage, spec)]
    commits = log.commits.values()
    if progress:
        progress(0, len(commits))
    sources = []
    results = storage.map_parallel(
        lambda commit: _verify_shard(storage, spec, commit), commits, _PARALLEL_SHARDS
    )
    for done, (shard_faults, source_index) in enumerate(results, 1):
        faults += shard_faults
        sources.append(source_index)
        if progress:
            progress(done, len(commits))
    faults += _duplicates(spec, list(log.commits), sources)
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
        notes=_notes(storage, spec, log.commits),
    )


def repair_cache(url: str, storage_options: dict[str, Any] | None, report: VerifyReport) -> list[int]:
    """Delete the records of the faulty shards, so that the next run of the cache command makes them again.

    Permitted only while no run is writing the cache. A damaged ``zarr.json`` of the group cannot be repaired;
    the next run writes those of the arrays again.

    Returns:
        shards whose records were deleted.
    """
    storage = open_storage(url, storage_options)
    spec = read_spec(storage)
    faulty = {fault.shard for fault in report.faults if fault.shard is not None}
    # a damaged line of a compacted block cannot tell its shard: it is one of those that are missing
    unnamed = {fault.path for fault in report.faults if fault.shard is None and fault.kind == "commit"}
    drop_commits(storage, spec, faulty | (set(report.missing) if unnamed else set()))
    return sorted(faulty)


def _verify_shard(storage: Storage, spec: CacheSpec, commit: ShardCommit) -> tuple[list[Fault], Any]:
    """Return the faults of one shard, and its source indices (empty if they cannot be read)."""
    faults = []
    source_index: Any = np.empty(0, np.int64)
    num_rows = len(spec.shard_rows(commit.shard_id))
    for name, layout in spec.array_layout().items():
        path = layout.object_path(commit.shard_id)
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
            faults.append(Fault(shard=commit.shard_id, path=path, kind=kind, detail=detail))
    return faults, source_index


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


def _duplicates(spec: CacheSpec, shard_ids: list[int], sources: list[Any]) -> list[Fault]:
    """Return a fault for every shard that repeats a source image of an earlier row."""
    if not sources:
        return []
    owner = np.repeat(shard_ids, [len(source) for source in sources])
    values, first, counts = np.unique(np.concatenate(sources), return_index=True, return_counts=True)
    repeated = np.setdiff1d(np.arange(len(owner)), first)
    faults = []
    for shard_id in np.unique(owner[repeated]).tolist():
        path = spec.array_layout()["source_index"].object_path(shard_id)
        detail = f"repeats source images of other rows; {values[counts > 1][:5].tolist()} occur twice"
        faults.append(Fault(shard=shard_id, path=path, kind="duplicate", detail=detail))
    return faults


def _notes(storage: Storage, spec: CacheSpec, commits: dict[int, ShardCommit]) -> list[str]:
    """Describe the objects that belong to no committed shard."""
    layouts = spec.array_layout()
    known = {"zarr.json", *(f"{name}/zarr.json" for name in layouts)}
    known.update(path for commit in commits.values() for path in commit.objects)
    others = [
        path
        for path in storage.paths()
        if path not in known and not path.startswith(("commits/", f"{RUN_FOLDER}/", f"{QUALITY_FOLDER}/"))
    ]
    stopped = [path for path in others if _belongs(path, layouts, spec.num_shards)]
    foreign = sorted(set(others) - set(stopped))
    notes = []
    if stopped:
        notes.append(f"{len(stopped)} objects of uncommitted shards, left by a run that was stopped")
    if foreign:
        notes.append(f"{len(foreign)} objects that are not the cache's: {', '.join(foreign[:3])}")
    if temporary := storage.leftovers():
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
