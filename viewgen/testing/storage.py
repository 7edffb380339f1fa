"""Contract of storages; see `viewgen.testing`."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest

from viewgen.errors import CacheMismatchError, CorruptDataError, MissingFileError
from viewgen.store import (
    CacheReader,
    ObjectExistsError,
    Storage,
    compact_commits,
    create_cache,
    drop_commits,
    list_commits,
    open_storage,
    pending_shards,
    repair_cache,
    verify_cache,
)
from viewgen.testing.caches import small_spec, write_random_cache

__all__ = ["StorageContract"]


class StorageContract:
    """Contract of a storage. Subclasses provide the fixture `url`, an empty location, maybe `options`."""

    @pytest.fixture
    def url(self) -> str:
        """URL of an empty location."""
        raise NotImplementedError("give the fixture `url`")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """Options of the URL's file system."""
        return {}

    @pytest.fixture
    def storage(self, url: str, options: dict[str, Any]) -> Storage:
        """The storage under test."""
        return open_storage(url, options)

    def test_an_empty_place_is_empty(self, storage: Storage) -> None:
        assert storage.entries() == []
        assert storage.paths() == storage.paths("folder") == []
        assert storage.size("a") is None
        assert not storage.exists("folder/a")
        storage.delete("folder/a")
        storage.delete_tree("folder")
        with pytest.raises(MissingFileError, match="folder/a"):
            storage.read("folder/a")

    def test_what_is_written_is_read(self, storage: Storage) -> None:
        data = bytes(range(256)) * 5
        storage.write("folder/deep/a.b", data)
        storage.write_new("folder/c", b"")
        assert storage.read("folder/deep/a.b") == data
        assert storage.read("folder/c") == b""
        assert (storage.size("folder/deep/a.b"), storage.size("folder/c")) == (1280, 0)
        assert storage.paths() == storage.paths("folder") == ["folder/c", "folder/deep/a.b"]
        assert storage.paths("fold") == []
        assert storage.sizes() == storage.sizes("folder") == {"folder/c": 0, "folder/deep/a.b": 1280}
        assert storage.sizes("fold") == {}
        assert storage.entries() == ["folder"]

    def test_ranges(self, storage: Storage) -> None:
        storage.write("a", b"0123456789")
        assert storage.read_range("a", 0, 3) == b"012"
        assert storage.read_range("a", 8, 10) == b"89"
        assert storage.read_range("a", 20, 4) == b""
        with pytest.raises(MissingFileError):
            storage.read_range("b", 0, 1)

    def test_write_replaces_and_write_new_does_not(self, storage: Storage) -> None:
        storage.write_new("f/a", b"1")
        with pytest.raises(ObjectExistsError, match="f/a"):
            storage.write_new("f/a", b"2")
        assert storage.read("f/a") == b"1"
        storage.write("f/a", b"3")
        assert storage.read("f/a") == b"3"
        storage.delete("f/a")
        storage.write_new("f/a", b"4")
        assert storage.read("f/a") == b"4"

    def test_one_of_many_creators_wins(self, storage: Storage, url: str, options: dict[str, Any]) -> None:
        outcomes: list[int] = []
        barrier = threading.Barrier(8)

        def create(number: int) -> None:
            mine = open_storage(url, options)
            barrier.wait()
            try:
                mine.write_new("lease", b"%d" % number)
                outcomes.append(number)
            except ObjectExistsError:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1
        assert storage.read("lease") == b"%d" % outcomes[0]

    def test_stamps_change_with_the_objects_and_with_nothing_else(self, storage: Storage) -> None:
        for path in ("f/a", "f/b", "f/c", "d"):
            storage.write(path, b"1")
        before, one = storage.stamps(), storage.fingerprint("f/a")
        assert before.keys() == {"f/a", "f/b", "f/c", "d"}
        storage.read("f/a")
        assert storage.stamps() == before
        assert storage.fingerprint("f/a") == one
        storage.write("f/a", b"2")
        storage.write("f/b", b"22")
        storage.delete("d")
        after = storage.stamps()
        assert after.keys() == {"f/a", "f/b", "f/c"}
        assert [path for path in after if after[path] == before[path]] == ["f/c"]
        assert storage.fingerprint("f/a") != one
        with pytest.raises(MissingFileError):
            storage.fingerprint("d")

    def test_delete_tree_takes_the_folder_and_nothing_beside_it(self, storage: Storage) -> None:
        for path in ("views/a", "views/b/c", "views2/a", "v"):
            storage.write(path, b"x")
        storage.delete_tree("views")
        assert storage.paths() == ["v", "views2/a"]

    def test_another_writer_is_seen(self, storage: Storage, url: str, options: dict[str, Any]) -> None:
        other = open_storage(url, options)
        assert other.paths("f") == []
        assert not other.exists("f/a")
        storage.write("f/a", b"1")
        assert other.paths("f") == ["f/a"]
        assert other.exists("f/a")
        storage.delete("f/a")
        assert other.paths("f") == []
        assert not other.exists("f/a")

    def test_it_travels_by_pickle(self, storage: Storage) -> None:
        storage.write("a", b"1")
        assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"

    def test_map_parallel_keeps_the_order(self, storage: Storage) -> None:
        for number in range(40):
            storage.write(f"n/{number:02d}", b"%d" % number)
        read = list(storage.map_parallel(storage.read, storage.paths("n")))
        assert read == [b"%d" % number for number in range(40)]

    def test_a_cache_from_creation_to_repair(
        self, storage: Storage, url: str, options: dict[str, Any]
    ) -> None:
        spec = small_spec()
        create_cache(storage, spec)
        assert pending_shards(storage, spec) == [0, 1, 2]
        contents = write_random_cache(storage, spec)
        assert pending_shards(storage, spec) == []
        reader = CacheReader(url, options)
        rows = np.array([20, 0, 7, 8, 0])
        np.testing.assert_array_equal(reader.views(rows), contents["views"][rows])
        np.testing.assert_array_equal(
            reader.views(rows, [1, 0, 1, 0, 1]), contents["views"][rows, [1, 0, 1, 0, 1]]
        )
        np.testing.assert_array_equal(reader.views(9, 1), contents["views"][9, 1])
        np.testing.assert_array_equal(reader.distance, contents["distance"])
        for shard in reader.iter_shards():
            np.testing.assert_array_equal(shard["views"], contents["views"][shard["row"]])
        assert verify_cache(url, options).ok

        with pytest.raises(CacheMismatchError, match="seed: the cache has 7, this command asks for 8"):
            create_cache(storage, small_spec(seed=8))

        path = spec.array_layout()["views"].object_path(1)
        data = bytearray(storage.read(path))
        data[3] ^= 1
        storage.write(path, bytes(data))
        report = verify_cache(url, options)
        assert [(fault.shard, fault.kind) for fault in report.faults] == [(1, "digest")]
        for check in ("crc", "digest"):
            with pytest.raises(CorruptDataError, match="views"):
                CacheReader(url, options, check=check).views([0, 8])
        assert repair_cache(url, options, report) == [1]
        assert pending_shards(storage, spec) == [1]
        with pytest.raises(ObjectExistsError, match="shard 0 was committed already"):
            write_random_cache(storage, spec)

        create_cache(storage, small_spec(seed=8), overwrite=True)
        assert list_commits(storage, spec) == {}
        assert not storage.paths("commits")

    def test_compaction_keeps_every_record(self, storage: Storage) -> None:
        spec = small_spec()
        write_random_cache(storage, spec)
        before = list_commits(storage, spec)
        assert compact_commits(storage, spec) == 1
        assert storage.paths("commits") == ["commits/compacted-00000000.jsonl"]
        assert list_commits(storage, spec) == before
        assert compact_commits(storage, spec) == 0
        drop_commits(storage, spec, [1])
        assert list_commits(storage, spec) == {shard: before[shard] for shard in (0, 2)}
