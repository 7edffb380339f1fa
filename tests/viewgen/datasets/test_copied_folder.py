"""A folder of pictures at a URL: copied once, brought up to date, and the same data set as on the disk."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from viewgen.datasets import load_dataset
from viewgen.datasets.copied import copied_folder
from viewgen.datasets.folder import ENTRY as FOLDER
from viewgen.datasets.registry import canonical_name, chosen_dataset, known_side
from viewgen.errors import DataError, MissingFileError, UsageError
from viewgen.store import open_storage
from viewgen.store.remote import FsspecStorage

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), np.uint8)


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture
def url(tmp_path):
    found = f"memory://{tmp_path.name}/photos"
    storage = open_storage(found)
    for number, pixels in enumerate(PIXELS):
        storage.write(f"{'ab'[number % 2]}/{number}.png", png(pixels))
    storage.write("a/notes.txt", b"no picture")
    storage.write("a/.hidden.png", b"no picture either")
    return found


@pytest.fixture
def reads(monkeypatch):
    """The paths that were read."""
    found = []
    read = FsspecStorage.read_range
    monkeypatch.setattr(
        FsspecStorage, "read_range", lambda self, path, *place: found.append(path) or read(self, path, *place)
    )
    return found


def test_pictures_are_copied_once_and_again_where_they_changed(url, reads, tmp_path):
    dataset = load_dataset(f"folder:{url}/?test=0.4", data_root=tmp_path)
    assert dataset.name == f"folder:{url}?test=0.4" == canonical_name(f"folder:{url}/?test=0.4")
    assert dataset.class_names == ("a", "b")
    whole = load_dataset(f"folder:{url}", data_root=tmp_path)
    np.testing.assert_array_equal(whole.images(range(6)), PIXELS[[0, 2, 4, 1, 3, 5]].transpose(0, 3, 1, 2))
    assert len(load_dataset(f"folder:{url}?test=0.4", "test", data_root=tmp_path)) + len(dataset) == 6
    assert known_side(f"folder:{url}", data_root=tmp_path) == 12
    assert len(reads) == 6, "each picture once"
    reads.clear()
    storage = open_storage(url)
    storage.write("a/2.png", png(PIXELS[5]))
    storage.write("b/9.png", png(PIXELS[0]))
    storage.delete("b/5.png")
    again = load_dataset(f"folder:{url}", data_root=tmp_path)
    expected = PIXELS[[0, 5, 4, 1, 3, 0]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(again.images(range(6)), expected)
    assert sorted(reads) == ["a/2.png", "b/9.png"]


def test_a_copy_that_was_interrupted_is_completed(url, monkeypatch, tmp_path):
    read = FsspecStorage.read_range

    def fails(self, path, start, length):
        if path == "b/3.png":
            raise MissingFileError("gone")
        return read(self, path, start, length)

    monkeypatch.setattr(FsspecStorage, "read_range", fails)
    with pytest.raises(MissingFileError, match="gone"):
        copied_folder(url, tmp_path)
    # what goes meanwhile is gone, and so is a class without pictures
    for path in ("b/1.png", "b/3.png", "b/5.png"):
        open_storage(url).delete(path)
    with pytest.raises(MissingFileError, match="not copied"):
        copied_folder(url, tmp_path, download=False)
    monkeypatch.setattr(FsspecStorage, "read_range", read)
    files = copied_folder(url, tmp_path)
    found = sorted(path.relative_to(files).as_posix() for path in files.rglob("*.png"))
    assert found == ["a/0.png", "a/2.png", "a/4.png"]
    assert load_dataset(f"folder:{url}", data_root=tmp_path).class_names == ("a",)
    monkeypatch.setattr(FsspecStorage, "stamps", None)
    assert copied_folder(url, tmp_path, download=False) == files


def test_sizes_are_told_from_first_bytes_without_a_copy(url, reads, monkeypatch, tmp_path):
    assert known_side(f"folder:{url}", data_root=tmp_path) == 12
    assert len(reads) == 1
    assert not (tmp_path / "copies").exists()
    raw_sizes = partial(FOLDER.raw_sizes, chosen_dataset(f"folder:{url}?test=0.5").settings)
    assert raw_sizes("test", 1, tmp_path) == [(12, 12)]
    # a header behind the first bytes
    open_storage(url).write("b/5.png", png(PIXELS[0][:, :9]))
    open_storage(url).write("b/7.png", b"damaged")
    monkeypatch.setattr("viewgen.datasets.copied.HEADER_BYTES", 20)
    reads.clear()
    assert (
        sorted(raw_sizes("train", 3, tmp_path) + raw_sizes("test", 3, tmp_path)) == [(9, 12)] + [(12, 12)] * 5
    )
    with pytest.raises(UsageError, match=f"folder:{url}.*has no split 'tset'"):
        raw_sizes("tset", 3, tmp_path)
    other = chosen_dataset(f"folder:{url}/a").settings
    with pytest.raises(DataError, match=f"{url}/a has no class directories: 3 pictures lie in it"):
        FOLDER.raw_sizes(other, "train", 2, tmp_path)
    assert not (tmp_path / "copies").exists()
    # of all, which are copied then
    assert len(raw_sizes("train", 100, tmp_path)) == 3
    reads.clear()
    assert len(raw_sizes("train", 2, tmp_path)) == 2
    assert reads == [], "of the copy"


def test_a_file_that_is_too_large_is_none(url, monkeypatch, tmp_path):
    monkeypatch.setattr("viewgen.datasets.copied.MAX_FILE_BYTES", 40)
    with pytest.raises(DataError, match="too much for a picture"):
        copied_folder(url, tmp_path)


def test_what_is_no_folder_of_pictures_is_refused(tmp_path, monkeypatch):
    with pytest.raises(MissingFileError, match="no pictures below memory://nothing"):
        load_dataset("folder:memory://nothing/there", data_root=tmp_path)
    for strange in ("a/../../x.png", "/x.png", "a//x.png", "a\\x.png", "c:x.png"):
        monkeypatch.setattr(FsspecStorage, "stamps", lambda self, wanted, strange=strange: {strange: "1"})
        with pytest.raises(DataError, match="no name of a file"):
            copied_folder("memory://nothing/there", tmp_path)
    assert not (tmp_path / "copies").exists()
