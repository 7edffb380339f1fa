"""Stamps and sizes of objects on file systems whose listings tell too little, or too much."""

import http.server
import os
import threading
from functools import partial
from itertools import count

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from viewgen.errors import StorageError
from viewgen.store import open_storage
from viewgen.store.remote import FsspecStorage, _mark


@pytest.fixture
def index(tmp_path):
    """A folder, the URL of a server that lists it as a page, and its answers to some paths instead."""
    instead = {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self):
            if self.path in instead:
                self.send_error(instead[self.path])
                return None
            return super().send_head()

        def log_message(self, *_):
            pass

    folder = tmp_path / "photos"
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    handler = partial(Handler, directory=tmp_path)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{running.server_port}/photos", instead
    running.shutdown()
    running.server_close()
    thread.join()


def test_an_index_page_has_no_sizes_and_each_file_is_asked_for(index):
    folder, url, instead = index
    storage = open_storage(url)
    assert storage.sizes() == {"a/1.png": 7, "a/2.png": 7, "b/3.png": 7}
    before = storage.stamps()
    assert storage.stamps() == before
    (folder / "a/2.png").write_bytes(b"another")
    (folder / "b/3.png").write_bytes(b"longer than before")
    # a server tells whole seconds
    for name, seconds in (("a/1.png", 1e9), ("a/2.png", 2e9)):
        os.utime(folder / name, (seconds, seconds))
    after = storage.stamps()
    assert all(after[path] != before[path] for path in before)
    os.utime(folder / "b/3.png", (3e9, 3e9))
    changed = storage.stamps()
    assert [path for path in changed if changed[path] != after[path]] == ["b/3.png"]
    # of the listing, but gone since
    instead["/photos/a/1.png"] = 404
    assert storage.sizes().keys() == {"a/2.png", "b/3.png"}


def test_only_what_is_not_there_is_absent(index):
    """fsspec calls every failure "not found"; a server out of order has lost nothing."""
    _, url, instead = index
    storage = open_storage(url)
    instead["/photos/a/1.png"] = 404
    assert storage.size("a/1.png") is None
    for status in (403, 500, 503):
        instead["/photos/a/1.png"] = status
        for ask in (storage.size, storage.exists, storage.fingerprint):
            with pytest.raises(StorageError, match=str(status)):
                ask("a/1.png")
        with pytest.raises(StorageError, match=str(status)):
            storage.stamps()


def test_a_time_of_access_is_no_change(monkeypatch):
    """Listings of SFTP and SMB have one, under the name of "time"; others have `last_accessed_on`."""
    accesses = count()

    def ls(self, path, detail=True, **options):
        found = listed(self, path, detail=True, **options)
        for about in found:
            number = next(accesses)
            about |= {"time": number, "mtime": about.get("created"), "last_accessed_on": number}
        return found if detail else [about["name"] for about in found]

    storage = open_storage("memory://times/of/access")
    for path in ("a", "b"):
        storage.write(path, b"1")
    listed = MemoryFileSystem.ls
    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    before = storage.stamps()
    assert storage.stamps() == before
    storage.write("a", b"2")
    after = storage.stamps()
    assert [path for path in after if after[path] != before[path]] == ["a"]


def test_a_folder_that_cannot_be_listed_is_not_empty(monkeypatch):
    """An HTTP server that is not there, and a folder without permission where fsspec walks through all."""
    storages = [open_storage("http://127.0.0.1:9/c"), open_storage("memory://walked/c")]
    storages[1].write("commits/a/1.json", b"1")

    def ls(self, path, detail=True, **options):
        if path.endswith("/commits/a"):
            raise PermissionError(13, "no entry", path)
        return listed(self, path, detail=detail, **options)

    listed = MemoryFileSystem.ls
    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)
    assert storages[1].paths() == storages[1].paths("commits") == ["commits/a/1.json"]
    assert storages[1].paths("absent") == []
    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    for storage in storages:
        for ask in (storage.paths, storage.sizes, storage.stamps, partial(storage.paths, "commits")):
            with pytest.raises(StorageError, match="cannot list"):
                ask()


def test_what_an_address_is_signed_with_is_no_change():
    told = {"name": "https://a/b.png", "size": 3, "ETag": '"1"'}
    assert _mark(told | {"url": "https://c/b.png?sig=1"}) == _mark(told | {"url": "https://c/b.png?sig=2"})
    assert _mark(told) != _mark(told | {"ETag": '"2"'})


def test_objects_whose_server_tells_no_size(monkeypatch, url_of_names):
    storage = open_storage(url_of_names)
    monkeypatch.setattr(FsspecStorage, "_info", lambda self, path: {"name": path, "size": None})
    assert storage.sizes() == {}
    with pytest.raises(StorageError, match="does not tell its size"):
        storage.size("a.txt")


def test_only_wanted_objects_are_asked_for(monkeypatch, url_of_names):
    asked = []
    monkeypatch.setattr(FsspecStorage, "_info", lambda self, path: asked.append(path) or {"size": 1})
    assert open_storage(url_of_names).stamps(lambda path: path == "a.txt").keys() == {"a.txt"}
    assert asked == ["a.txt"]


@pytest.fixture
def url_of_names(monkeypatch):
    """URL of a folder whose listing has names alone, as that of an HTTP server."""
    names = ("a.txt", "b.txt")
    monkeypatch.setattr(
        FsspecStorage, "_find", lambda self, prefix: {self._place(name): {"size": None} for name in names}
    )
    return "memory://names"
