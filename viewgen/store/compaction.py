"""Rewriting of the commit log: compaction and withdrawal of records.

A cache of 100 million images has about 200,000 shards, and opening it would take one request per single
record. The records of 1000 neighbouring shards therefore move into one object, a block. A run does this
whenever a block of its shards is finished; its log then holds only the shards in progress and some blocks.

A block is written once, create-only, when all of its shards are committed, and never changes. A kill at any
point loses no record, and neither does a process that was stopped and goes on later: single records are
deleted only where the block that stands has one of the same shard and generation.
"""

import contextlib
from collections.abc import Iterable, Mapping

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.store.commits import RecordCheck, ShardCommit, scan_commits
from viewgen.store.names import block_of, block_path, block_shards, place_of_record, record_path, void_path
from viewgen.store.spec import CacheSpec
from viewgen.store.storage import ObjectExistsError, Storage

__all__ = ["compact_commits", "drop_commits", "void_records"]


def compact_commits(storage: Storage, spec: CacheSpec, blocks: Iterable[int] | None = None) -> int:
    """Move single records into the objects of their blocks, 1000 shards each.

    Opening a cache of 200,000 shards then takes 200 reads. May be called during commits and reads, and by
    several processes. The records of an incomplete block stay where they are, and so do those of shards that
    are made again after their block was written.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        blocks: numbers of the blocks to compact (block b holds the shards from 1000·b); by default all.

    Returns:
        number of blocks into which records have moved.
    """
    asked = None if blocks is None else set(blocks)
    singles: dict[int, dict[int, int]] = {}
    for path in storage.paths("commits"):
        place = place_of_record(path)
        if place is not None and place[0] < spec.num_shards:
            shard_id, generation = place
            block = block_of(shard_id)
            if asked is None or block in asked:
                newest = singles.setdefault(block, {})
                newest[shard_id] = max(generation, newest.get(shard_id, 0))
    check = RecordCheck(spec)
    return sum(_compact(storage, check, block, found) for block, found in sorted(singles.items()))


def _compact(storage: Storage, check: RecordCheck, block: int, singles: dict[int, int]) -> bool:
    """Compact one block, given the generation of each of its shards' own records."""
    path = block_path(block)
    if not storage.exists(path):
        wanted = block_shards(check.spec, block)
        if len(singles) < len(wanted):
            return False

        def sound_line(shard_id: int) -> bytes | None:
            place = record_path(shard_id, singles[shard_id])
            try:
                line = storage.read(place)
                commit = ShardCommit.from_bytes(line, place)
            except (MissingFileError, CorruptDataError):
                return None
            named = (commit.shard_id, commit.generation, commit.identity)
            sound = named == (shard_id, singles[shard_id], check.identity) and check.fits(commit)
            return line if sound else None

        lines = [line for line in storage.map_parallel(sound_line, wanted) if line is not None]
        if len(lines) < len(wanted):
            return False
        # another process may have written it since; what stands then decides
        with contextlib.suppress(ObjectExistsError):
            storage.write_new(path, b"".join(lines))
    moved = singles.items() & _records_in(storage, check, block)
    places = [record_path(shard_id, generation) for shard_id, generation in sorted(moved)]
    for _ in storage.map_parallel(storage.delete, places):
        pass
    return bool(moved)


def drop_commits(storage: Storage, spec: CacheSpec, shard_ids: Iterable[int]) -> None:
    """Withdraw the records of these shards, so that the next run of the same command makes them again."""
    generations = scan_commits(storage, spec).generations
    void_records(storage, {shard_id: generations.get(shard_id, 0) for shard_id in shard_ids})


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


def _records_in(storage: Storage, check: RecordCheck, block: int) -> set[tuple[int, int]]:
    """Return shard and generation of the sound records of a block's object."""
    path = block_path(block)
    found = set()
    for line in storage.read(path).splitlines(keepends=True):
        with contextlib.suppress(CorruptDataError):
            commit = ShardCommit.from_bytes(line, path)
            if commit.identity == check.identity and check.fits(commit):
                found.add((commit.shard_id, commit.generation))
    return found
