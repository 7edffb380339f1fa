"""Windows of large pictures: content, addresses, uniform places, refusals."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from viewgen.datasets import load_dataset
from viewgen.datasets.photos import corner, half
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


@pytest.fixture
def numbered(tmp_path):
    """Pictures that differ in every pixel, whose red and green are column and row, blue the picture."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for number, (height, width) in enumerate(((20, 50), (61, 21), (30, 30))):
        row, column = np.mgrid[:height, :width]
        pixels = np.stack([column, row, np.full_like(row, number)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{'abc'[number]}.png")
    return f"photos:{folder}?size=12&windows=40&labels=picture"


def test_halves_of_pictures_are_classes_of_either_split(numbered, tmp_path):
    seen, names = {}, ("a.png", "b.png", "c.png")
    for split in ("train", "test"):
        dataset = load_dataset(numbered, split, data_root=tmp_path / "root")
        assert (len(dataset), dataset.num_classes, dataset.class_names) == (120, 3, names)
        assert dataset.targets[:6].tolist() == [0, 1, 2, 0, 1, 2], "a short prefix has every class"
        images = dataset.images(range(120))
        assert (images[:, 2] == dataset.targets[:, None, None]).all(), "the label is the picture"
        seen[split] = {tuple(pixel) for pixel in images.transpose(0, 2, 3, 1).reshape(-1, 3).tolist()}
        again = load_dataset(dataset.name, split, data_root=tmp_path / "other")
        assert again.digest == dataset.digest
        np.testing.assert_array_equal(again.images([119, 3, 3]), images[[119, 3, 3]])
    assert not seen["train"] & seen["test"]
    assert len(seen["train"]) > 0.9 * (20 * 25 + 30 * 21 + 15 * 30), "windows reach all of a half"


def test_halves_meet_in_the_middle():
    for name in "abcdefgh":
        (rows, columns), (other, others) = (half(name, split, 7, 5) for split in ("train", "test"))
        assert columns == others == slice(None)
        assert {tuple(range(7)[rows]), tuple(range(7)[other])} == {(0, 1, 2), (4, 5, 6)}
    first = [half(name, "train", 7, 5)[0].start == 0 for name in "abcdefgh"]
    assert 0 < sum(first) < 8, "neither split has all the skies"


def test_photographs_are_backgrounds_with_classes(numbered, tmp_path):
    name = f"overlay:{numbered}?size=12&images=30"
    train = load_dataset(name, data_root=tmp_path / "root")
    test = load_dataset(name, "test", data_root=tmp_path / "root")
    assert (train.name, len(train), len(test), train.image_size) == (name, 30, 6, 12)
    assert train.attribute_names == ("digit", "background")
    assert train.target("background").tolist() == [0, 1, 2] * 10
    assert train.attributes[1].values == ("a.png", "b.png", "c.png")


def test_labels_change_no_other_name(pictures, tmp_path):
    """Names and copies of unlabelled windows are those of earlier versions."""
    folder, _ = pictures
    root = tmp_path / "root"
    assert load_dataset(f"photos:{folder}?size=9&windows=5", data_root=root).name == (
        f"photos:{folder.resolve()}?size=9&windows=5"
    )
    (about,) = root.glob("photos/*/train/about.json")
    assert json.loads(about.read_text())["source"].keys() == {"size", "windows", "listing"}


def test_refusals_of_pictures_as_classes(pictures, tmp_path):
    folder, _ = pictures
    with pytest.raises(DataError, match=r"10×20 pixels, of which a split has one half, and a window 11×11"):
        load_dataset(f"photos:{folder}?size=11&labels=picture", data_root=tmp_path / "root")
    assert (
        len(load_dataset(f"photos:{folder}?size=10&labels=picture", "val", data_root=tmp_path / "root")) == 32
    )
    (folder / "deep/a.png").unlink()
    with pytest.raises(DataError, match="holds one picture, which makes one class; expected two or more"):
        load_dataset(f"photos:{folder}?size=9&labels=picture", data_root=tmp_path / "root")
    with pytest.raises(UsageError, match="labels is 'class'"):
        load_dataset(f"photos:{folder}?size=9&labels=class", data_root=tmp_path / "root")
    with pytest.raises(UsageError, match="has no split 'unlabeled'"):
        load_dataset(f"photos:{folder}?size=9&labels=picture", "unlabeled", data_root=tmp_path / "root")
