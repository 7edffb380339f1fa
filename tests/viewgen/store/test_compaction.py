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
from viewgen.store.commits import scan_commits
from viewgen.store.compaction import void_records
from viewgen.store.names import record_path

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


def test_what_is_no_sound_record_is_left_where_it_lies(storage, spec, unfinished):
    damaged, foreign = unfinished[0].to_bytes()[:-9], dataclasses.replace(unfinished[1], identity="sha256:x")
    storage.write(record_path(0), damaged)
    storage.write(record_path(1), foreign.to_bytes())
    before = verify_cache(storage.url).faults
    assert compact_commits(storage, spec) == 1
    assert storage.read(record_path(0)) == damaged
    assert verify_cache(storage.url).faults == before
    assert pending_shards(storage, spec) == [0, 1, 3]


@pytest.mark.parametrize("change", ["compact", "drop", "drop from blocks"])
def test_killed_anywhere_no_other_record_is_lost(storage, spec, unfinished, kill_everywhere, change):
    kept = set(unfinished) - ({1, 2} if "drop" in change else set())
    if change == "drop from blocks":
        compact_commits(storage, spec)

    def act(storage):
        if "drop" in change:
            drop_commits(storage, spec, {1, 2} & list_commits(storage, spec).keys())
        else:
            compact_commits(storage, spec)

    states = 0
    for after in kill_everywhere(act, storage):
        found = list_commits(after, spec)
        assert kept <= set(found)
        assert {shard_id: unfinished[shard_id] for shard_id in found} == found
        assert all(read_commit(after, spec.identity, shard_id) for shard_id in kept)
        act(after)
        assert set(list_commits(after, spec)) == kept
        states += 1
    # two blocks written and three records deleted; two marks written and two records deleted
    assert states == {"compact": 5, "drop": 4, "drop from blocks": 4}[change]


def test_a_shard_that_is_made_again_has_a_record_of_its_own_beside_the_block(
    storage, spec, unfinished, write
):
    compact_commits(storage, spec)
    drop_commits(storage, spec, [1])
    assert pending_shards(storage, spec) == [1, 3]
    assert read_commit(storage, spec.identity, 1) is None
    again = write(1, seed=5)
    assert again.generation == 1
    assert len({path[-15:] for path in again.objects}) == 1, "all names end with the attempt"
    commit_shard(storage, again)
    assert list_commits(storage, spec)[1] == read_commit(storage, spec.identity, 1) == again
    assert compact_commits(storage, spec) == 0
    assert storage.exists("commits/00000001-1.json")
    drop_commits(storage, spec, [1])
    assert write(1).generation == 2


def test_a_process_that_withdrew_the_record_before_does_not_withdraw_the_next(
    storage, spec, unfinished, write
):
    """It found generation 0 wrong, was stopped, and comes back when generation 1 is committed."""
    drop_commits(storage, spec, [1])
    commit_shard(storage, write(1, seed=5))
    void_records(storage, {1: 0})
    assert list_commits(storage, spec)[1].generation == 1


def test_a_part_of_the_log_is_read_without_the_rest(storage, spec, unfinished, monkeypatch):
    """Blocks {0, 1} and {4} are put together; shard 2 has a record of its own."""
    compact_commits(storage, spec)
    read = []
    whole = LocalStorage.read
    monkeypatch.setattr(LocalStorage, "read", lambda self, path: read.append(path) or whole(self, path))
    assert scan_commits(storage, spec, {0}).commits == {0: unfinished[0], 1: unfinished[1]}
    assert scan_commits(storage, spec, {1}).commits == {2: unfinished[2]}
    assert read == ["commits/compacted-00000000.jsonl", "commits/00000002.json"]
    reader = CacheReader(storage.url, blocks={1, 2})
    everything = CacheReader(storage.url)
    rows = [row for shard in (2, 4) for row in spec.shard_rows(shard) if row in everything.rows]
    assert reader.rows.tolist() == rows
    assert (reader.views(rows) == everything.views(rows)).all()
    assert reader.reopened().committed == [2, 4]
    drop_commits(storage, spec, [1])
    assert [*scan_commits(storage, spec, {0}).commits] == [0], "marks of withdrawn records count"


class MovingStorage(LocalStorage):
    """Puts its own log together after each listing of it."""

    listings = 0

    def paths(self, prefix=""):
        found = super().paths(prefix)
        if prefix == "commits":
            self.listings += 1
            self.move()
        return found


def test_a_reader_misses_nothing_while_records_move(storage, spec, unfinished, write):
    commit_shard(storage, write(3))
    complete = list_commits(storage, spec)
    moving = MovingStorage(storage.root)
    moving.move = lambda: compact_commits(storage, spec)
    assert list_commits(moving, spec) == complete
    assert moving.listings == 2
    assert list(CacheReader(storage.url).committed) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_a_late_worker_commits_a_shard_whose_record_has_moved(storage, spec, unfinished, write, same, killed):
    """Run b began shard 3 before run a committed it; the first record stays."""
    early, late = write(3, run_id="a"), write(3, seed=0 if same else 1, run_id="b")
    commit_shard(storage, early)
    compact_commits(storage, spec)
    if killed:
        storage.write_new(record_path(3), late.to_bytes())
    elif same:
        commit_shard(storage, late)
    else:
        with pytest.raises(ObjectExistsError, match="shard 3 was committed already, by run 'a'"):
            commit_shard(storage, late)
    assert list_commits(storage, spec)[3] == read_commit(storage, spec.identity, 3) == early
    compact_commits(storage, spec)
    assert not storage.exists(record_path(3))
    assert list_commits(storage, spec)[3] == early


def test_a_process_that_was_stopped_before_it_wrote_a_block_changes_nothing(storage, spec, unfinished):
    class Late(LocalStorage):
        """Another process does its work before the block is created."""

        def write_new(self, path, data):
            if "compacted-00000000" in path:
                drop_commits(storage, spec, [1])
                compact_commits(storage, spec)
            super().write_new(path, data)

    compact_commits(Late(storage.root), spec)
    assert pending_shards(storage, spec) == [1, 3]
    assert read_commit(storage, spec.identity, 1) is None
