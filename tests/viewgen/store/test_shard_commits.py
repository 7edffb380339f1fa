"""Commits of shards: one content for each row, whatever attempts, answers and records come late."""

import dataclasses
import hashlib

import numpy as np
import pytest

from viewgen.errors import CorruptDataError, DataError
from viewgen.store import (
    CacheReader,
    LocalStorage,
    ObjectExistsError,
    ShardCommit,
    commit_shard,
    create_cache,
    list_commits,
    pending_shards,
    read_commit,
    repair_cache,
    verify_cache,
    write_plain_copies,
    write_shard,
)

pytestmark = pytest.mark.usefixtures("no_flushing")


class TestCommits:
    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path)

    @pytest.fixture
    def spec(self, storage, make_spec):
        spec = make_spec()
        create_cache(storage, spec)
        return spec

    @pytest.fixture
    def write(self, storage, spec, shard_arrays):
        def write(seed, run_id):
            objects = write_shard(storage, spec, 1, shard_arrays(spec, 1, seed))
            return ShardCommit(
                shard_id=1, identity=spec.identity, objects=objects, status=bytes([1] * 8), run_id=run_id
            )

        return write

    def test_a_record_is_read_back_equal(self, spec, write):
        commit = dataclasses.replace(
            write(0, "a"),
            status=[1, 2, 3, 1, 1, 1, 1, 1],
            failures={10: "NaN — non-finite"},
            stats={"x": 1.5},
        )
        assert ShardCommit.from_bytes(commit.to_bytes(), "") == commit
        assert commit.status == bytes([1, 2, 3, 1, 1, 1, 1, 1])
        odd = dataclasses.replace(commit, stats={"mean": float("nan")})
        assert ShardCommit.from_bytes(odd.to_bytes(), "").stats == {"mean": None}

    def test_committing_the_same_objects_twice_is_quiet(self, storage, spec, write):
        commit = write(0, "a")
        commit_shard(storage, commit)
        commit_shard(storage, dataclasses.replace(commit, run_id="b"))
        assert list_commits(storage, spec)[1].run_id == "a"

    def test_a_committed_shard_is_not_written_over(self, storage, spec, write):
        commit_shard(storage, write(0, "a"))
        with pytest.raises(ObjectExistsError, match="shard 1 was committed already, by run 'a'"):
            write(1, "b")

    def test_two_attempts_at_one_shard_do_not_touch_each_other(self, storage, spec, write, shard_arrays):
        """Run b writes while a has written and not committed; both records would be true."""
        import zarr

        first, second = write(0, "a"), write(1, "b")
        assert first.objects.keys() == {path.partition(".0-")[0] for path in first.objects}
        assert "views/c.1.0.0.0.0" not in second.objects
        for commit in (first, second):
            paths = {path: storage.read(path) for path in commit.objects}
            assert {hashlib.sha256(data).hexdigest() for data in paths.values()} == {
                entry["sha256"] for entry in commit.objects.values()
            }
        commit_shard(storage, second)
        with pytest.raises(ObjectExistsError, match="shard 1 was committed already, by run 'b'"):
            commit_shard(storage, first)
        assert list_commits(storage, spec)[1].run_id == "b"
        made = shard_arrays(spec, 1, 1)
        reader = CacheReader(storage.url, check="digest")
        for name in made:
            np.testing.assert_array_equal(reader.shard(1, [name])[name], made[name])
        assert not verify_cache(storage.url).faults
        # plain Zarr reads what b committed once the run has copied it
        assert write_plain_copies(storage, spec, list_commits(storage, spec).values()) == 5
        np.testing.assert_array_equal(zarr.open_array(f"{storage.url}/views", mode="r")[8:16], made["views"])
        assert write_plain_copies(storage, spec, list_commits(storage, spec).values()) == 0
        assert not verify_cache(storage.url).faults

    def test_a_late_attempt_writes_nothing_that_is_committed(self, storage, spec, shard_arrays):
        """A process is stopped after its look at the record; another commits the shard meanwhile."""
        before = {}

        class Stopped(LocalStorage):
            def write_new(self, path, data):
                if not before:
                    objects = write_shard(storage, spec, 1, shard_arrays(spec, 1, 0))
                    record = ShardCommit(
                        shard_id=1, identity=spec.identity, objects=objects, status=bytes([1] * 8)
                    )
                    commit_shard(storage, record)
                    before.update({name: storage.read(name) for name in storage.paths()})
                super().write_new(path, data)

        late = write_shard(Stopped(storage.root), spec, 1, shard_arrays(spec, 1, 1))
        assert {name: storage.read(name) for name in before} == before
        with pytest.raises(ObjectExistsError, match="committed already"):
            commit_shard(
                storage, ShardCommit(shard_id=1, identity=spec.identity, objects=late, status=bytes([1] * 8))
            )
        report = verify_cache(storage.url)
        assert report.faults == []
        assert sorted(report.superseded) == sorted(late.keys() - before.keys())
        assert report.notes == [
            f"{len(report.superseded)} objects of attempts that came too late; the next run deletes them"
        ]

    @pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b"null\n", "foreign"])
    def test_a_damaged_or_foreign_record_does_not_count_and_is_withdrawn(self, storage, spec, write, damage):
        commit = write(0, "a")
        foreign = dataclasses.replace(commit, identity="sha256:other").to_bytes()
        storage.write("commits/00000001.json", foreign if damage == "foreign" else damage)
        assert 1 in pending_shards(storage, spec)
        assert read_commit(storage, spec.identity, 1) is None
        with pytest.raises(CorruptDataError, match=r"00000001\.json is damaged or belongs to another cache"):
            commit_shard(storage, commit)
        assert repair_cache(storage.url, None, verify_cache(storage.url)) == [1]
        assert not verify_cache(storage.url).faults
        commit = write(0, "a")
        commit_shard(storage, commit)
        assert list_commits(storage, spec) == {1: commit}

    @pytest.mark.parametrize(
        ("end", "crc"),
        [("1-0123456789ab", "AAAAAA=="), ("", "AAAA"), ("", "!"), ("", 7), ("../../secret", None)],
    )
    def test_a_record_of_impossible_names_and_checksums_does_not_count(self, storage, spec, write, end, crc):
        commit = write(0, "a")
        objects = dict(commit.objects)
        entry = objects.pop("label/c.1")
        objects[f"label/c.1{'.' if end else ''}{end}"] = entry | {"crc32c": crc}
        storage.write("commits/00000001.json", dataclasses.replace(commit, objects=objects).to_bytes())
        assert 1 in pending_shards(storage, spec)

    @pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype"])
    def test_wrong_arrays_are_refused_before_anything_is_written(self, storage, spec, shard_arrays, fault):
        arrays = shard_arrays(spec, 1)
        if fault == "missing":
            del arrays["steps"]
        elif fault == "unknown":
            arrays["extra"] = arrays["steps"]
        elif fault == "shape":
            arrays["steps"] = arrays["steps"][:-1]
        else:
            arrays["steps"] = arrays["steps"].astype(np.int64)
        before = storage.paths()
        with pytest.raises(DataError, match=r"shard 1.*(steps|extra)"):
            write_shard(storage, spec, 1, arrays)
        assert storage.paths() == before
