"""The commit log put together and taken apart: during a run, under its readers, killed anywhere."""

import dataclasses

import pytest

from viewgen.store import (
    CacheReader,
    LocalStorage,
    ObjectExistsError,
    ShardCommit,
    commit_shard,
    compact_commits,
    create_cache,
    drop_commits,
    list_commits,
    pending_shards,
    read_commit,
    verify_cache,
    write_shard,
)
from viewgen.store.commits import record_path

pytestmark = pytest.mark.usefixtures("no_flushing", "blocks_of_two")


@pytest.fixture
def spec(make_spec):
    return make_spec(num_images=37)  # 5 shards: blocks {0, 1}, {2, 3}, {4}


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "c.zarr")


@pytest.fixture
def write(storage, spec, shard_arrays):
    """Write a shard's objects, and return the record that would commit them."""

    def write(shard_id, *, seed=0, run_id="a", into=storage):
        arrays = shard_arrays(spec, shard_id, seed)
        objects = write_shard(into, spec, shard_id, arrays)
        status = arrays["status"]
        return ShardCommit(
            shard_id=shard_id, identity=spec.identity, objects=objects, status=status, run_id=run_id
        )

    return write


@pytest.fixture
def unfinished(storage, spec, write):
    """A cache without shard 3; return its records."""
    create_cache(storage, spec)
    for shard_id in (0, 1, 2, 4):
        commit_shard(storage, write(shard_id))
    return list_commits(storage, spec)


def test_complete_blocks_move_and_others_wait(storage, spec, unfinished, write):
    assert compact_commits(storage, spec, [1]) == 0
    assert compact_commits(storage, spec, [0]) == 1
    assert compact_commits(storage, spec) == 1
    names = ["00000002.json", "compacted-00000000.jsonl", "compacted-00000002.jsonl"]
    assert storage.paths("commits") == [f"commits/{name}" for name in names]
    assert list_commits(storage, spec) == unfinished
    assert [read_commit(storage, spec.identity, shard_id) for shard_id in range(5)] == [
        unfinished.get(shard_id) for shard_id in range(5)
    ]
    commit_shard(storage, write(3))
    assert compact_commits(storage, spec) == 1
    assert pending_shards(storage, spec) == []
    assert len(storage.paths("commits")) == 3
    assert verify_cache(storage.url).ok


def test_partial_blocks_grow(storage, spec, unfinished, write):
    assert compact_commits(storage, spec, partial=True) == 3
    assert len(storage.paths("commits")) == 3
    assert list_commits(storage, spec) == unfinished
    assert read_commit(storage, spec.identity, 3) is None
    commit_shard(storage, write(3))
    assert compact_commits(storage, spec) == 1
    assert pending_shards(storage, spec) == []
    assert len(storage.paths("commits")) == 3
    assert compact_commits(storage, spec, partial=True) == 0


def test_what_is_no_sound_record_is_left_where_it_lies(storage, spec, unfinished):
    damaged, foreign = unfinished[0].to_bytes()[:-9], dataclasses.replace(unfinished[1], identity="sha256:x")
    storage.write(record_path(0), damaged)
    storage.write(record_path(1), foreign.to_bytes())
    before = verify_cache(storage.url).faults
    assert compact_commits(storage, spec) == 1
    assert compact_commits(storage, spec, partial=True) == 1
    assert storage.read(record_path(0)) == damaged
    assert verify_cache(storage.url).faults == before
    assert pending_shards(storage, spec) == [0, 1, 3]


@pytest.mark.parametrize("change", ["complete", "partial", "drop", "drop from blocks"])
def test_killed_anywhere_no_other_record_is_lost(storage, spec, unfinished, kill_everywhere, change):
    kept = set(unfinished) - ({1, 2} if "drop" in change else set())
    if change == "drop from blocks":
        compact_commits(storage, spec, partial=True)

    def act(storage):
        if "drop" in change:
            drop_commits(storage, spec, [1, 2])
        else:
            compact_commits(storage, spec, partial=change == "partial")

    states = 0
    for after in kill_everywhere(act, storage):
        found = list_commits(after, spec)
        assert kept <= set(found)
        assert {shard_id: unfinished[shard_id] for shard_id in found} == found
        assert all(read_commit(after, spec.identity, shard_id) for shard_id in kept)
        act(after)
        assert set(list_commits(after, spec)) == kept
        states += 1
    # two blocks written and three records deleted; …; a block rewritten, one deleted, and no record there
    assert states == {"complete": 5, "partial": 7, "drop": 2, "drop from blocks": 4}[change]


class MovingStorage(LocalStorage):
    """Puts its own log together after each listing of it."""

    listings = 0

    def paths(self, prefix=""):
        found = super().paths(prefix)
        if prefix == "commits":
            self.listings += 1
            self.move()
        return found


@pytest.mark.parametrize("partial_first", [False, True])
def test_a_reader_misses_nothing_while_records_move(storage, spec, unfinished, write, partial_first):
    if partial_first:
        compact_commits(storage, spec, partial=True)
    commit_shard(storage, write(3))
    complete = list_commits(storage, spec)
    moving = MovingStorage(storage.root)
    moving.move = lambda: compact_commits(storage, spec)
    assert list_commits(moving, spec) == complete
    assert moving.listings == 2
    assert list(CacheReader(storage.url).committed) == [0, 1, 2, 3, 4]


def test_a_reader_takes_no_block_as_it_was_before_a_record_moved_into_it(storage, spec, unfinished, write):
    class BlocksFirst(LocalStorage):
        """Reads blocks before single records, and moves records in between."""

        def map_parallel(self, function, items):
            found = {item: function(item) for item in items if "compacted" in item}
            compact_commits(storage, spec)
            return [found[item] if item in found else function(item) for item in items]

    compact_commits(storage, spec, partial=True)
    commit_shard(storage, write(3))
    complete = list_commits(storage, spec)
    assert list_commits(BlocksFirst(storage.root), spec) == complete


def test_a_record_replaced_while_its_block_is_written_stays(storage, spec, unfinished, write):
    other = dataclasses.replace(unfinished[1], run_id="b")

    class Replacing(LocalStorage):
        def write(self, path, data):
            super().write(path, data)
            if "compacted-00000000" in path:
                super().write(record_path(1), other.to_bytes())

    compact_commits(Replacing(storage.root), spec)
    assert list_commits(storage, spec) == unfinished | {1: other}
    assert not storage.exists(record_path(0))


@pytest.mark.parametrize("true_run", ["a", "b", "both"])
def test_a_late_worker_commits_a_shard_whose_record_has_moved(storage, spec, unfinished, write, true_run):
    """Run b began shard 3 before run a committed it; the record that stays must be true."""
    seed = 0 if true_run == "both" else 1
    late = write(3, seed=seed, run_id="b")
    early = write(3, run_id="a")
    if true_run == "b":
        write(3, seed=seed, run_id="b")
    commit_shard(storage, early)
    compact_commits(storage, spec)
    if true_run == "a":
        with pytest.raises(ObjectExistsError, match="shard 3 was committed already, by run 'a'"):
            commit_shard(storage, late)
    else:
        commit_shard(storage, late)
    expected = "b" if true_run == "b" else "a"
    assert list_commits(storage, spec)[3].run_id == expected
    assert storage.exists(record_path(3)) == (true_run == "b")
    assert verify_cache(storage.url).ok
