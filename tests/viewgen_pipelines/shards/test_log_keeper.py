"""The log of a run that goes on stays short, and no record is lost over it."""

import pytest

from viewgen.errors import LeaseError, StorageError
from viewgen.store import LocalStorage, ShardCommit, commit_shard, create_cache, list_commits, write_shard
from viewgen_pipelines.shards.ledger import AttemptLedger
from viewgen_pipelines.shards.log_keeper import LogKeeper

pytestmark = pytest.mark.usefixtures("no_flushing", "blocks_of_two")


@pytest.fixture
def spec(make_spec):
    return make_spec(num_images=37)  # 5 shards: blocks {0, 1}, {2, 3}, {4}


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "c.zarr")


@pytest.fixture
def said():
    return []


@pytest.fixture
def keep(spec, said, monkeypatch):
    """Return a function that makes the keeper of a run on a storage."""

    def keep(storage, *, compact_from=2, check=lambda: None):
        monkeypatch.setattr("viewgen_pipelines.shards.log_keeper._COMPACT_FROM", compact_from)
        return LogKeeper(storage, spec, AttemptLedger(storage, "run", 3), check=check, say=said.append)

    return keep


@pytest.fixture
def make_shard(spec, shard_arrays):
    """Begin, write and commit a shard, as a worker does."""

    def make(storage, shard_id):
        AttemptLedger(storage, "run", 3).begin(shard_id)
        arrays = shard_arrays(spec, shard_id)
        objects = write_shard(storage, spec, shard_id, arrays)
        status = arrays["status"]
        commit_shard(
            storage, ShardCommit(shard_id=shard_id, identity=spec.identity, objects=objects, status=status)
        )

    return make


def log(storage):
    """Return the names of records and attempt markers."""
    return [p.rpartition("/")[2] for p in (*storage.paths("commits"), *storage.paths("run/attempts"))]


def test_records_and_markers_are_put_together_as_the_run_goes_on(storage, spec, keep, make_shard, said):
    create_cache(storage, spec)
    keeper = keep(storage)
    for shard_id in (1, 2, 0):
        make_shard(storage, shard_id)
        keeper.add([shard_id])
    assert log(storage) == ["00000002.json", "compacted-00000000.jsonl", "00000002-01-started.json"]
    make_shard(storage, 4)
    keeper.add([4, 0])
    keeper.finish()
    names = ["00000002.json", "compacted-00000000.jsonl", "compacted-00000002.jsonl"]
    assert log(storage) == [*names, "00000002-01-started.json"]
    assert set(list_commits(storage, spec)) == {0, 1, 2, 4}
    assert said == []


def test_a_resumed_run_takes_up_what_it_finds(storage, spec, keep, make_shard):
    create_cache(storage, spec)
    for shard_id in (0, 1, 4):
        make_shard(storage, shard_id)
    keep(storage).add(list_commits(storage, spec))
    assert log(storage) == ["compacted-00000000.jsonl", "compacted-00000002.jsonl"]


def test_a_short_log_is_left_alone(storage, spec, keep, make_shard):
    create_cache(storage, spec)
    keeper = keep(storage, compact_from=6)
    make_shard(storage, 4)
    keeper.add([4])
    keeper.finish()
    assert log(storage) == ["00000004.json", "00000004-01-started.json"]


def test_a_run_killed_anywhere_loses_no_record(storage, spec, keep, make_shard, kill_everywhere):
    create_cache(storage, spec)
    make_shard(storage, 4)

    def run(storage):
        keeper = keep(storage)
        done = set(list_commits(storage, spec))
        keeper.add(done)
        for shard_id in sorted(set(range(5)) - done):
            make_shard(storage, shard_id)
            keeper.add([shard_id])
        keeper.finish()

    committed = 0
    for after in kill_everywhere(run, storage):
        found = set(list_commits(after, spec))
        assert len(found) >= committed  # each run is killed later than the one before
        committed = len(found)
        run(after)
        assert set(list_commits(after, spec)) == set(range(5))
        assert [name for name in log(after) if "compacted" in name] == log(after)[:3]
    assert committed == 5


def test_a_storage_that_stutters_does_not_end_the_run(storage, spec, keep, make_shard, said):
    create_cache(storage, spec)
    keeper = keep(storage)

    class Stuttering(LocalStorage):
        def write_new(self, path, data):
            raise StorageError("slow down")

    keeper.storage = Stuttering(storage.root)
    for shard_id in (0, 1):
        make_shard(storage, shard_id)
    keeper.add([0, 1])
    assert len(said) == 1
    assert "slow down" in said[0]
    keeper.storage = storage
    keeper.finish()
    assert storage.paths("commits") == ["commits/compacted-00000000.jsonl"]


def test_a_run_that_lost_its_lease_touches_nothing(storage, spec, keep, make_shard):
    def lost():
        raise LeaseError("lost")

    create_cache(storage, spec)
    keeper = keep(storage, check=lost)
    for shard_id in (0, 1):
        make_shard(storage, shard_id)
    before = storage.paths()
    for act in (lambda: keeper.add([0, 1]), keeper.finish):
        with pytest.raises(LeaseError):
            act()
    assert storage.paths() == before
