"""Windows of large pictures: content, addresses, uniform places, refusals."""

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from viewgen.datasets import load_dataset
from viewgen.datasets.photos import corner
from viewgen.errors import DataError, MissingFileError, UsageError


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of random pixels, in a folder and below it; name → pixels."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    random = np.random.default_rng(0)
    found = {}
    for name, shape in (("b.png", (12, 30, 3)), ("deep/a.png", (20, 10, 3))):
        found[name] = random.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(found[name]).save(folder / name)
    return folder, found


def test_windows_are_slices_at_their_address(pictures, tmp_path):
    folder, found = pictures
    dataset = load_dataset(f"photos:{folder}?size=9&windows=5", data_root=tmp_path / "root")
    assert (len(dataset), dataset.image_size, dataset.num_classes, dataset.has_classes) == (10, 9, 0, False)
    images = dataset.images(range(10))
    for place, (name, pixels) in enumerate(sorted(found.items())):
        for window in range(5):
            row, column = corner(name, window, *pixels.shape[:2], 9)
            expected = pixels[row : row + 9, column : column + 9].transpose(2, 0, 1)
            np.testing.assert_array_equal(images[5 * place + window], expected)
    more = load_dataset(f"photos:{folder}?size=9&windows=6", data_root=tmp_path / "root")
    np.testing.assert_array_equal(more.images(range(5)), images[:5])


@pytest.mark.parametrize("held_out", ["test", "valid", "DIV2K_valid_HR"])
def test_pictures_to_test_with_are_not_among_the_others(pictures, tmp_path, held_out):
    folder, _ = pictures
    (folder / "deep").rename(folder / held_out)
    train, test = (
        load_dataset(f"photos:{folder}?size=9&windows=5", split, data_root=tmp_path / "root")
        for split in ("train", "test")
    )
    assert (len(train), len(test)) == (5, 5)
    assert not (train.images(range(5)) == test.images(range(5))).all()


def test_places_are_uniform():
    places = np.array([corner("a", window, 10, 11, 8) for window in range(3000)])
    counts = np.bincount(places[:, 0] * 4 + places[:, 1], minlength=12)
    assert chisquare(counts).pvalue > 0.001


def test_refusals(pictures, tmp_path):
    folder, _ = pictures
    with pytest.raises(DataError, match=r"10×20 pixels, and a window 11×11; give a smaller \?size="):
        load_dataset(f"photos:{folder}?size=11", data_root=tmp_path / "root")
    with pytest.raises(UsageError, match="has no split 'test'"):
        load_dataset(f"photos:{folder}?size=9", "test", data_root=tmp_path / "root")
    with pytest.raises(MissingFileError, match="there is no directory"):
        load_dataset(f"photos:{folder}/none")
    with pytest.raises(UsageError, match="needs a path"):
        load_dataset("photos")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        load_dataset(f"photos:{folder}/empty")
