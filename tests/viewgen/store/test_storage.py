"""Local writes under failure, and the messages for URLs that cannot be used."""

import errno
import os
import sys
import uuid
from pathlib import Path

import pytest

from viewgen.errors import StorageError, UsageError, ViewgenError
from viewgen.store import (
    LocalStorage,
    ObjectExistsError,
    ShardCommit,
    commit_shard,
    compact_commits,
    create_cache,
    drop_commits,
    list_commits,
    open_storage,
    parse_storage_options,
    write_shard,
)


def test_bare_paths_and_file_urls_are_one_place(tmp_path):
    bare, url = open_storage(str(tmp_path / "c")), open_storage(f"file://{tmp_path}/c")
    assert isinstance(bare, LocalStorage)
    assert isinstance(url, LocalStorage)
    bare.write("a/b", b"1")
    assert url.read("a/b") == b"1"
    assert url.local_path("a/b") == tmp_path / "c/a/b"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_object_and_no_litter(tmp_path, monkeypatch, step):
    storage = LocalStorage(tmp_path)
    storage.write("f/a", b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(StorageError, match="No space left on device"):
        storage.write("f/a", b"new")
    monkeypatch.undo()
    assert storage.read("f/a") == b"old"
    assert os.listdir(tmp_path / "f") == ["a"]


def test_create_only_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    storage = LocalStorage(tmp_path)
    storage.write_new("a", b"1")
    with pytest.raises(FileExistsError):
        storage.write_new("a", b"2")
    assert storage.read("a") == b"1"
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_of_killed_writers_are_invisible_and_swept_when_old(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.write("f/a", b"1")
    left = tmp_path / "f/.b.123.abcd.viewgen-tmp"
    left.write_bytes(b"torn")
    assert storage.paths() == ["f/a"]
    storage.remove_leftovers()
    assert left.exists()
    storage.remove_leftovers(older_than_seconds=0)
    assert os.listdir(tmp_path / "f") == ["a"]


def test_links_inside_a_cache_are_not_followed_when_deleting(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/data").write_bytes(b"1")
    storage = LocalStorage(tmp_path / "c")
    storage.write("views/a", b"1")
    (tmp_path / "c/views/link").symlink_to(tmp_path / "precious")
    storage.delete_tree("views")
    assert storage.entries() == []
    assert (tmp_path / "precious/data").exists()


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd"])
def test_paths_stay_inside(tmp_path, path):
    with pytest.raises(UsageError, match="not a path inside"):
        LocalStorage(tmp_path).read(path)


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    storage = open_storage(str(tmp_path / "file/c.zarr"))
    with pytest.raises(StorageError, match="Not a directory"):
        storage.write("a", b"")
    with pytest.raises(StorageError):
        open_storage(str(tmp_path / "file")).entries()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "an empty URL"),
        ("s4://bucket/c", "unknown protocol 's4' in s4://bucket/c; did you mean 's3'"),
        ("nonsense://user:pass@host/c", "unknown protocol 'nonsense' in nonsense://host/c"),
    ],
)
def test_urls_that_cannot_be_opened(url, message):
    with pytest.raises(StorageError, match=message) as caught:
        open_storage(url)
    assert "pass@" not in str(caught.value)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(StorageError, match=r"pip install 'viewgen\[s3\]'"):
        open_storage("s3://bucket/c")


def test_a_read_only_protocol_and_its_credentials():
    storage = open_storage("http://user:password@127.0.0.1:9/c?signature=topsecret")
    assert storage.url == "http://127.0.0.1:9/c"
    with pytest.raises(StorageError) as caught:
        storage.write("a", b"")
    assert not any(secret in str(caught.value) for secret in ("password", "topsecret"))
    assert isinstance(caught.value, ViewgenError | OSError)


def test_storage_options_are_parsed():
    pairs = [
        "anon=true",
        "key=AKIA",
        "client_kwargs.endpoint_url=http://h:1",
        "client_kwargs.verify=false",
        "e=",
    ]
    assert parse_storage_options(pairs) == {
        "anon": True,
        "key": "AKIA",
        "client_kwargs": {"endpoint_url": "http://h:1", "verify": False},
        "e": "",
    }


@pytest.mark.parametrize("pairs", [["topsecret"], ["=topsecret"], ["a=1", "a.b=topsecret"]])
def test_wrong_storage_options_do_not_show_their_value(pairs):
    with pytest.raises(UsageError) as caught:
        parse_storage_options(pairs)
    assert "topsecret" not in str(caught.value)


def test_a_conditional_write_whose_answer_was_lost_is_its_own(monkeypatch):
    """The request is sent again, and the store says that the object exists: the one that it wrote itself."""
    storage = open_storage(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(storage, "_protocols", {"s3", "memory"})
    put = storage._fs.pipe_file

    def loses_answers(place, data, mode="overwrite"):
        if mode == "create" and storage._fs.exists(place):
            raise OSError("An error occurred (PreconditionFailed) when calling the PutObject operation")
        put(place, data)
        if mode == "create":
            raise OSError("An error occurred (PreconditionFailed) when calling the PutObject operation")

    monkeypatch.setattr(storage._fs, "pipe_file", loses_answers)
    storage.write_new("a", b"mine")
    assert storage.read("a") == b"mine"
    # written by another between the look and the request
    monkeypatch.setattr(storage, "size", lambda path: None)
    with pytest.raises(ObjectExistsError):
        storage.write_new("a", b"yours")
    assert storage.read("a") == b"mine"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch, code):
    storage = LocalStorage(tmp_path)
    storage.write("commits/0.json", b"1")
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("commits"):
            raise OSError(code, os.strerror(code), str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    for prefix in ("commits", ""):
        with pytest.raises(StorageError, match="cannot list"):
            storage.paths(prefix)
    assert storage.paths("absent") == []


class Bucket:
    """A store in memory that answers conditional PUTs as object stores may: with conflicts, or never."""

    def __init__(self, monkeypatch):
        self.storage = open_storage(f"memory://{uuid.uuid4().hex}")
        self.answers = []
        self.put = self.storage._fs.pipe_file
        self.slept = []
        monkeypatch.setattr(self.storage, "_protocols", {"s3"})
        monkeypatch.setattr(self.storage._fs, "pipe_file", self.pipe_file)
        monkeypatch.setattr("viewgen.store.remote.time.sleep", self.slept.append)

    def pipe_file(self, place, data, mode="overwrite"):
        answer = self.answers.pop(0) if self.answers and mode == "create" else ""
        if answer == "409":
            raise OSError(errno.EIO, "An error occurred (ConditionalRequestConflict) when calling PutObject")
        if mode == "create" and answer != "ignored" and self.storage._fs.exists(place):
            raise OSError(errno.EINVAL, "An error occurred (PreconditionFailed) when calling PutObject")
        self.put(place, data)
        if answer == "sent again":
            raise OSError(errno.EINVAL, "An error occurred (PreconditionFailed) when calling PutObject")
        if answer == "lost":
            raise ConnectionError("no answer")


@pytest.fixture
def bucket(monkeypatch):
    bucket = Bucket(monkeypatch)
    yield bucket
    monkeypatch.undo()
    bucket.storage.delete_tree("")


@pytest.mark.parametrize("answers", [["lost"], ["sent again"], ["409"], ["409", "409", "sent again"]])
def test_whoever_creates_an_object_finds_it_whatever_became_of_the_answer(bucket, answers):
    bucket.answers = list(answers)
    bucket.storage.write_new("a", b"mine")
    assert bucket.storage.read("a") == b"mine"
    assert len(bucket.slept) == answers.count("409")
    bucket.answers = list(answers)
    with pytest.raises(ObjectExistsError):
        bucket.storage.write_new("a", b"yours")
    assert bucket.storage.read("a") == b"mine"


@pytest.mark.parametrize("answer", ["sent again", "lost"])
def test_an_object_that_cannot_be_read_back_is_nobodys(bucket, monkeypatch, answer):
    """The answer to the write went astray, and so does the one to the look at what stands there."""
    bucket.answers = [answer]
    looks = []

    def size(path):
        looks.append(path)
        if len(looks) > 1:
            raise StorageError("503")

    monkeypatch.setattr(bucket.storage, "size", size)
    with pytest.raises(StorageError, match=r"cannot be told|no answer") as caught:
        bucket.storage.write_new("a", b"mine")
    assert not isinstance(caught.value, FileExistsError), "it would count as somebody else's"


def test_conflicts_are_tried_again_with_longer_and_longer_waits_and_not_for_ever(bucket):
    bucket.answers = ["409"] * 9
    with pytest.raises(StorageError, match="ConditionalRequestConflict"):
        bucket.storage.write_new("a", b"mine")
    assert len(bucket.slept) == 4
    assert all(
        0.5 * wait <= slept <= 1.5 * wait for wait, slept in zip((0.1, 0.3, 1, 3), bucket.slept, strict=True)
    )
    assert not bucket.storage.exists("a")


def test_a_conflict_with_somebody_else_ends_in_exists(bucket, monkeypatch):
    bucket.answers = ["409"]
    bucket.slept = None
    monkeypatch.setattr(
        "viewgen.store.remote.time.sleep",
        lambda seconds: bucket.put(bucket.storage._place("a"), b"theirs"),
    )
    with pytest.raises(ObjectExistsError):
        bucket.storage.write_new("a", b"mine")
    assert bucket.storage.read("a") == b"theirs"


def test_a_store_that_ignores_the_condition_is_found_when_a_cache_is_created(bucket, make_spec):
    assert bucket.storage.refuses_existing()
    bucket.answers = ["409", "ignored"]
    with pytest.warns(UserWarning, match=r"memory://\w+ replaces an object.*one command at a time"):
        create_cache(bucket.storage, make_spec())
    assert bucket.storage.paths("run") == []
    create_cache(bucket.storage, make_spec())


def test_a_file_system_without_hard_links_is_found_when_a_cache_is_created(tmp_path, make_spec, monkeypatch):
    storage = LocalStorage(tmp_path / "c.zarr")
    assert storage.refuses_existing()

    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.warns(UserWarning, match="one command at a time"):
        create_cache(storage, make_spec())
    assert storage.paths("run") == []
    assert os.listdir(tmp_path / "c.zarr/run") == []


@pytest.mark.parametrize("answer", ["lost", "sent again", "409"])
def test_no_kind_of_object_is_made_twice_or_refused_for_a_lost_answer(
    bucket, make_spec, shard_arrays, answer
):
    """Lease, attempt marker, objects, commit record, block and mark: each first answer goes astray."""
    from viewgen_pipelines.shards.lease import Lease
    from viewgen_pipelines.shards.ledger import AttemptLedger

    storage, spec = bucket.storage, make_spec()
    bucket.answers = [answer, answer]
    create_cache(storage, spec)
    for shard_id in range(3):
        bucket.answers = [answer] * (1 if shard_id else 2)
        with Lease(storage) as lease:
            bucket.answers = [answer]
            attempt = AttemptLedger(storage, lease.run_id, 3).begin(shard_id)
            assert attempt.number == 1
            arrays = shard_arrays(spec, shard_id)
            bucket.answers = [answer] * 7 if answer != "409" else ["409", ""] * 7
            objects = write_shard(storage, spec, shard_id, arrays)
            assert all("-" not in path for path in objects)
            bucket.answers = [answer]
            commit_shard(
                storage,
                ShardCommit(
                    shard_id=shard_id, identity=spec.identity, objects=objects, status=arrays["status"]
                ),
            )
    bucket.answers = [answer]
    assert compact_commits(storage, spec) == 1
    bucket.answers = [answer]
    drop_commits(storage, spec, [1])
    assert sorted(list_commits(storage, spec)) == [0, 2]
    assert len(storage.paths("run/attempts")) == 3
