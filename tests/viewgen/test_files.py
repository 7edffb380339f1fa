"""Atomic writes: the old file, the whole new one, or none."""

import errno
import os
from pathlib import Path

import pytest

from viewgen.errors import CorruptDataError
from viewgen.files import (
    TEMPORARY_SUFFIX,
    file_sha256,
    free_text,
    leftovers,
    link_atomically,
    open_regular,
    remove_leftovers,
    write_atomically,
)


def half(file):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("sole_writer", [False, True])
def test_a_file_is_made_with_its_folders_and_replaced(tmp_path, sole_writer):
    path = tmp_path / "a/b/file"
    write_atomically(path, b"old", sole_writer=sole_writer)
    write_atomically(str(path), lambda file: file.write(b"new"), sole_writer=sole_writer)
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("sole_writer", [False, True])
def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path, sole_writer):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=r"No space left on device; [\d,]+ bytes are free.*file"):
        write_atomically(path, half, sole_writer=sole_writer)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_bytes_are_flushed_before_they_take_their_name(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("flush"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *names: [events.append("name"), replace(*names)][1])
    write_atomically(tmp_path / "file", b"new")
    assert events == ["flush", "name", "flush"], "contents, name, folder"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_create_only_write_replaces_nothing(tmp_path, monkeypatch, hard_links):
    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    write_atomically(tmp_path / "file", b"first", create_only=True)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"second", create_only=True)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_what_killed_writers_left_is_removed_once_it_is_old(tmp_path):
    left = tmp_path / f"folder/.file.1.abcd{TEMPORARY_SUFFIX}"
    write_atomically(left, b"torn")
    write_atomically(tmp_path / "folder/file", b"sound")
    remove_leftovers(tmp_path, older_than_seconds=3600)
    assert left.exists()
    remove_leftovers(tmp_path, older_than_seconds=0)
    assert os.listdir(tmp_path / "folder") == ["file"]


def test_a_sole_writer_overwrites_what_a_killed_one_left(tmp_path):
    (tmp_path / f".file{TEMPORARY_SUFFIX}").write_bytes(b"torn by a killed run")
    write_atomically(tmp_path / "file", b"new", sole_writer=True)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_outlives_the_first(tmp_path, monkeypatch, links):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").write_bytes(b"older")
    link_atomically(tmp_path / "a", tmp_path / "b")
    link_atomically(tmp_path / "a", tmp_path / "b")
    write_atomically(tmp_path / "a", b"new")
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"new", b"old"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    expected = CorruptDataError if kind in ("pipe", "device") else OSError
    with pytest.raises(expected, match="x"):
        open_regular(path)


def test_digests_of_whole_files_and_of_parts(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf")
    assert file_sha256(tmp_path / "x", 0).startswith("e3b0c442")


def test_free_space_is_told_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_text(tmp_path / "a/b").endswith(" bytes are free")


def test_temporary_files_are_listed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f".x.1.ab{TEMPORARY_SUFFIX}").touch()
    assert [path.name for path in leftovers(tmp_path)] == [f".x.1.ab{TEMPORARY_SUFFIX}"]
    assert leftovers(tmp_path / "nothing") == []
