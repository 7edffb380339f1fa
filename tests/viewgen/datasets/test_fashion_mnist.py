"""IDX files and Fashion-MNIST, packed and plain, from every place it is looked for."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from viewgen.datasets import load_dataset
from viewgen.datasets.dataset import ImageDataset
from viewgen.datasets.fashion_mnist import DEBIAN, FASHION_MNIST
from viewgen.datasets.idx import read_idx
from viewgen.errors import CorruptDataError, MissingFileError

ELSEWHERE = replace(FASHION_MNIST, directories=())
RNG = np.random.default_rng(3)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(directory: Path, split: str, grey: np.ndarray, labels: np.ndarray, packed: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in ((f"{split}-images-idx3-ubyte", grey), (f"{split}-labels-idx1-ubyte", labels)):
        path = directory / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(idx(array), 1) if packed else idx(array))


def load(root: Path, split: str = "train") -> ImageDataset:
    return ELSEWHERE.load(split, root, download=False)


@settings(max_examples=50, deadline=None)
@given(
    array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)),
    packed=st.booleans(),
)
def test_idx_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    np.testing.assert_array_equal(read_idx(path, num_axes=array.ndim), array)


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), packed=st.booleans())
def test_idx_cut_anywhere_is_corrupt(
    tmp_path_factory: pytest.TempPathFactory, share: float, packed: bool
) -> None:
    content = idx(RNG.integers(0, 256, (3, 5, 5), np.uint8))
    content = gzip.compress(content) if packed else content
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CorruptDataError, match="file"):
        read_idx(path, num_axes=3)


def test_idx_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(idx(np.zeros((2, 2), np.uint8)))
    with pytest.raises(CorruptDataError, match="with 3 axes"):
        read_idx(path, num_axes=3)
    path.write_bytes(idx(np.zeros(4, np.uint8)) + b"x")
    with pytest.raises(CorruptDataError, match="holds 5 bytes"):
        read_idx(path, num_axes=1)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["fashion-mnist", ".", "FashionMNIST/raw"])
def test_padded_with_black_and_repeated(tmp_path: Path, place: str, packed: bool) -> None:
    grey, labels = RNG.integers(1, 256, (6, 28, 28), np.uint8), RNG.integers(0, 10, 6).astype(np.uint8)
    write(tmp_path / place, "train", grey, labels, packed)
    dataset = load(tmp_path)
    images = dataset.images(range(6))
    assert images.shape == (6, 3, 32, 32)
    for channel in range(3):
        np.testing.assert_array_equal(images[:, channel, 2:30, 2:30], grey)
    images[:, :, 2:30, 2:30] = 0
    assert not images.any()
    np.testing.assert_array_equal(dataset.labels(range(6)), labels)
    assert dataset.label_text(9) == "Ankle boot"
    assert not ELSEWHERE.is_present(tmp_path)
    write(tmp_path / place, "t10k", grey[:2], labels[:2], packed)
    assert ELSEWHERE.is_present(tmp_path)
    assert len(load(tmp_path, "test")) == 2


@pytest.mark.parametrize(
    ("grey_shape", "labels", "message"),
    [
        ((3, 28, 28), [1, 2], "no match"),
        ((2, 28, 27), [1, 2], "no match"),
        ((2, 28, 28), [1, 10], "label 10"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, grey_shape: tuple[int, ...], labels: list[int], message: str
) -> None:
    write(tmp_path, "train", np.zeros(grey_shape, np.uint8), np.array(labels, np.uint8), packed=False)
    with pytest.raises(CorruptDataError, match=message):
        load(tmp_path)


def test_absent_names_file_url_and_place(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError) as caught:
        load(tmp_path)
    for part in ("train-images-idx3-ubyte.gz", "http://fashion-mnist", str(tmp_path / "fashion-mnist")):
        assert part in str(caught.value)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debian_files(tmp_path: Path) -> None:
    train = FASHION_MNIST.load("train", tmp_path, download=False)
    test = FASHION_MNIST.load("test", tmp_path, download=False)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(train.labels(range(60_000))).tolist() == [6000] * 10
    # The mean that the literature normalises this set with, 0.2860 of 255 over 28×28.
    assert train.images(range(60_000))[:, 0, 2:30, 2:30].mean() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_mnist_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Its files have the names of Fashion-MNIST's."""
    grey, labels = np.full((3, 28, 28), 9, np.uint8), np.array([1, 2, 3], np.uint8)
    write(tmp_path, "train", grey, labels, True)
    with pytest.raises(MissingFileError, match=r"train-images-idx3-ubyte\.gz is not at .*mnist"):
        load_dataset("mnist", data_root=tmp_path, download=False)
    write(tmp_path / "mnist", "train", grey, labels, True)
    found = load_dataset("mnist", data_root=tmp_path, download=False)
    assert (len(found), found.image_size, found.label_text(3)) == (3, 32, "3")
