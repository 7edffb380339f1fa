"""Decoded copies: made once, whole or not at all; damage is noticed."""

import pickle
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from viewgen.datasets.decoded import Blocks, Labelling, load_decoded, read_decoded
from viewgen.errors import CorruptDataError, DataError, StorageError

RNG = np.random.default_rng(7)


def pixels(count: int, size: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3, size, size), np.uint8)


def blocks_of(images: np.ndarray, calls: list[int] | None = None) -> Blocks:
    if calls is not None:
        calls.append(len(images))
    yield images[:2]
    yield images[2:]
    return Labelling(np.arange(len(images)), ("a", "b"))


def test_decoded_copy_is_made_once_and_again_for_another_source(tmp_path: Path) -> None:
    images, calls = pixels(5, 8), []

    def decode() -> Blocks:
        return blocks_of(images, calls)

    first = load_decoded("x", "train", tmp_path / "train", {"md5": "1"}, decode, num_images=5)
    again = load_decoded("x", "train", tmp_path / "train", {"md5": "1"}, decode, num_images=5)
    assert len(calls) == 1
    assert first.digest == again.digest
    np.testing.assert_array_equal(again.images(range(5)), images)
    np.load(tmp_path / "train" / "images.npy", allow_pickle=False)
    load_decoded("x", "train", tmp_path / "train", {"md5": "2"}, decode, num_images=5)
    assert len(calls) == 2
    assert {entry.name for entry in tmp_path.iterdir()} == {".lock", "train"}


def test_threads_decode_once(tmp_path: Path) -> None:
    images, calls = pixels(5, 8), []
    threads = [
        threading.Thread(
            target=load_decoded,
            args=("x", "train", tmp_path / "train", {}, lambda: blocks_of(images, calls)),
            kwargs={"num_images": 5},
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_decoding_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Blocks:
        yield pixels(2, 8)
        raise CorruptDataError("damaged")

    (tmp_path / ".new-of-a-killed-run").mkdir()
    with pytest.raises(CorruptDataError, match="damaged"):
        load_decoded("x", "train", tmp_path / "train", {}, broken, num_images=5)
    assert {entry.name for entry in tmp_path.iterdir()} == {".lock"}


def test_decoding_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(pixels(0, 8)), num_images=5)


def test_decoding_into_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="--data-root"):
        load_decoded(
            "x", "train", tmp_path / "file" / "d" / "train", {}, lambda: blocks_of(pixels(5, 8)), num_images=5
        )


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "about.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_altered_copy_is_noticed(tmp_path: Path, file: str, damage: str) -> None:
    images = pixels(5, 8)
    load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(images), num_images=5)
    path = tmp_path / "train" / file
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-20] if damage == "cut" else bytes(len(content)))
    if (file, damage) == ("about.json", "gone"):
        load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(images), num_images=5)
        return
    with pytest.raises(CorruptDataError, match="Delete that directory") as caught:
        load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(images), num_images=5)
    assert str(tmp_path / "train") in str(caught.value)


def test_one_wrong_label_is_noticed(tmp_path: Path) -> None:
    load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(pixels(5, 8)), num_images=5)
    labels = np.load(tmp_path / "train" / "labels.npy")
    labels[3] = 0
    np.save(tmp_path / "train" / "labels.npy", labels)
    with pytest.raises(CorruptDataError, match="not those that were written"):
        read_decoded("x", "train", tmp_path / "train", {})


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(StorageError, match=r"cannot write the decoded images to .*train"):
        load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(pixels(50, 32)), num_images=50)
    assert {entry.name for entry in tmp_path.iterdir()} == {".lock"}


def test_decoded_data_set_pickles_as_a_path(tmp_path: Path) -> None:
    images = pixels(200, 32)
    dataset = load_decoded("x", "train", tmp_path / "train", {}, lambda: blocks_of(images), num_images=5)
    dataset.images([0])
    packed = pickle.dumps(dataset)
    assert len(packed) < images.nbytes / 50
    restored = pickle.loads(packed)
    np.testing.assert_array_equal(restored.images([199, 0]), images[[199, 0]])
    assert restored.digest == dataset.digest
