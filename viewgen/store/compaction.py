"""Rewriting of the commit log: compaction and deletion of records.

A cache of 100 million images has about 200,000 shards, and opening it would take one request per single
record. The records of 1000 neighbouring shards therefore move into one object, a block. A run does this
whenever a block of its shards is finished; its log then holds only the shards in progress and some blocks.

A kill at any point loses no record: a block is replaced as a whole, before the single records are deleted.
"""

from collections.abc import Iterable

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.store.commits import (
    RecordCheck,
    ShardCommit,
    block_of,
    block_path,
    block_shards,
    record_path,
    shard_of_record,
)
from viewgen.store.spec import CacheSpec
from viewgen.store.storage import Storage

__all__ = ["compact_commits", "drop_commits"]


def compact_commits(
    storage: Storage, spec: CacheSpec, blocks: Iterable[int] | None = None, *, partial: bool = False
) -> int:
    """Move single records into the objects of their blocks, 1000 shards each.

    Opening a cache of 200,000 shards then takes 200 reads. Complete blocks may be moved during commits and
    reads. Only one process at a time compacts: the driver, which holds the cache's lease.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        blocks: numbers of the blocks to compact (block b holds the shards from 1000·b); by default all.
        partial: also move the records of incomplete blocks; permitted only while no run is writing.

    Returns:
        number of changed blocks.
    """
    asked = None if blocks is None else set(blocks)
    singles: dict[int, list[int]] = {}
    for path in storage.paths("commits"):
        shard_id = shard_of_record(path)
        if shard_id is not None and shard_id < spec.num_shards:
            block = block_of(shard_id)
            if asked is None or block in asked:
                singles.setdefault(block, []).append(shard_id)
    check = RecordCheck(spec)
    return sum(_compact(storage, check, block, shards, partial) for block, shards in sorted(singles.items()))


def _compact(storage: Storage, check: RecordCheck, block: int, shard_ids: list[int], partial: bool) -> bool:
    wanted = block_shards(check.spec, block)
    lines = _block_lines(storage, check, block)
    if not partial and len(lines.keys() | set(shard_ids)) < len(wanted):
        return False

    def sound_line(shard_id: int) -> bytes | None:
        path = record_path(shard_id)
        try:
            line = storage.read(path)
            commit = ShardCommit.from_bytes(line, path)
        except (MissingFileError, CorruptDataError):
            return None
        belongs = commit.shard_id == shard_id and commit.identity == check.identity and check.fits(commit)
        return line if belongs else None

    read = zip(shard_ids, storage.map_parallel(sound_line, shard_ids), strict=True)
    moved = {shard_id: line for shard_id, line in read if line is not None}
    lines |= moved
    if not moved or (len(lines) < len(wanted) and not partial):
        return False
    storage.write(block_path(block), b"".join(lines[shard_id] for shard_id in sorted(lines)))

    def delete(shard_id: int) -> None:
        # a record that was replaced since it was read is newer than the block's and stays
        try:
            unchanged = storage.read(record_path(shard_id)) == moved[shard_id]
        except MissingFileError:
            return
        if unchanged:
            storage.delete(record_path(shard_id))

    for _ in storage.map_parallel(delete, moved):
        pass
    return True


def drop_commits(storage: Storage, spec: CacheSpec, shard_ids: Iterable[int]) -> None:
    """Delete the records of these shards, so that the next run of the same command makes the shards again.

    Permitted only while no run is writing the cache. Damaged lines of a block that held one of the shards are
    deleted as well.
    """
    dropped = set(shard_ids)
    check = RecordCheck(spec)
    for block in sorted({block_of(shard_id) for shard_id in dropped}):
        if not storage.exists(block_path(block)):
            continue
        lines = _block_lines(storage, check, block)
        kept = [lines[shard_id] for shard_id in sorted(lines.keys() - dropped)]
        if kept:
            storage.write(block_path(block), b"".join(kept))
        else:
            storage.delete(block_path(block))
    for shard_id in sorted(dropped):
        storage.delete(record_path(shard_id))


def _block_lines(storage: Storage, check: RecordCheck, block: int) -> dict[int, bytes]:
    """Return shard id → line of the sound records of a block's object."""
    path = block_path(block)
    try:
        data = storage.read(path)
    except MissingFileError:
        return {}
    lines = {}
    for line in data.splitlines(keepends=True):
        try:
            commit = ShardCommit.from_bytes(line, path)
        except CorruptDataError:
            continue
        if commit.identity == check.identity and check.fits(commit) and block_of(commit.shard_id) == block:
            lines[commit.shard_id] = line
    return lines
