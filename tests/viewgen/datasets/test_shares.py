"""Splits of a folder by share: exact, the same everywhere, and never the same picture twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewgen.datasets import load_dataset
from viewgen.datasets.registry import known_side
from viewgen.datasets.shares import divide
from viewgen.errors import DataError, UsageError


def files(root: Path, **counts: int) -> list[tuple[Path, int]]:
    return [
        (root / name / f"{number}.png", label)
        for label, (name, count) in enumerate(sorted(counts.items()))
        for number in range(count)
    ]


def test_every_class_gives_its_share_and_no_file_is_lost(tmp_path):
    listed = files(tmp_path, cat=40, dog=10, fox=1)
    found = divide(listed, tmp_path, test=0.2, val=0.1)
    counts = {
        split: [sum(label == one for _, label in part) for one in range(3)] for split, part in found.items()
    }
    assert counts == {"train": [28, 7, 1], "test": [8, 2, 0], "val": [4, 1, 0]}
    assert sorted(file for part in found.values() for file in part) == sorted(listed)
    assert found["train"] == [file for file in listed if file in set(found["train"])], "in their order"


def test_neither_order_nor_place_of_the_folder_matters(tmp_path):
    here, there = tmp_path / "a", tmp_path / "b" / "c"
    first = divide(files(here, cat=30), here, test=0.3, val=0.0)
    second = divide(files(there, cat=30)[::-1], there, test=0.3, val=0.0)
    names = [sorted(path.name for path, _ in found["test"]) for found in (first, second)]
    assert names[0] == names[1]
    assert names[0] != sorted(f"{number}.png" for number in range(9)), "not the first nine"


def test_a_class_keeps_a_picture_to_train_on(tmp_path):
    found = divide(files(tmp_path, cat=2), tmp_path, test=0.9, val=0.09)
    assert [len(found[split]) for split in ("train", "test", "val")] == [1, 1, 0]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of eight pictures, all different."""
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((20, 30, 3), 100 * label + 10 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def levels(name: str, split: str, root: Path) -> set[int]:
    images = load_dataset(name, split, data_root=root)
    return set(images.images(range(len(images)))[:, 0, 0, 0].tolist())


def test_a_folder_is_divided_by_its_name(photos, tmp_path):
    name = f"folder:{photos}?size=16&test=0.25&val=0.125"
    train, test, val = (levels(name, split, tmp_path / "data") for split in ("train", "test", "val"))
    assert (len(train), len(test), len(val)) == (10, 4, 2)
    assert train | test | val == {100 * label + 10 * number for label in (0, 1) for number in range(8)}
    images = load_dataset(name, "test", data_root=tmp_path / "data")
    assert images.name == name
    assert images.labels(range(4)).tolist() == [0, 0, 1, 1]
    again = load_dataset(f"folder:{photos}?val=0.125&size=16&test=0.25", "test", data_root=tmp_path / "other")
    assert (again.name, again.digest) == (name, images.digest)
    with pytest.raises(UsageError, match="no split 'test'"):
        load_dataset(f"folder:{photos}?size=16&val=0.25", "test", data_root=tmp_path / "data")


@pytest.mark.parametrize(
    ("query", "split", "error", "message"),
    [
        ("size=16&test=0.5&val=0.5", "train", UsageError, "leave nothing to train on"),
        ("size=16&test=1", "train", UsageError, "test is 1; expected less than 1"),
        ("size=16&test=0.01", "test", DataError, "no class has enough pictures for a share of 0.01"),
    ],
)
def test_impossible_shares_are_refused(photos, tmp_path, query, split, error, message):
    with pytest.raises(error, match=message):
        load_dataset(f"folder:{photos}?{query}", split, data_root=tmp_path / "data")


def test_a_share_beside_a_test_folder_is_refused(photos, tmp_path):
    (tmp_path / "whole").mkdir()
    for split in ("train", "test"):
        (tmp_path / "whole" / split).symlink_to(photos)
    with pytest.raises(UsageError, match="beside which there is"):
        load_dataset(f"folder:{tmp_path / 'whole'}?size=16&test=0.2", data_root=tmp_path / "data")
    name = f"folder:{tmp_path / 'whole'}?size=16&val=0.25"
    counts = [len(levels(name, split, tmp_path / "data")) for split in ("train", "val", "test")]
    assert counts == [12, 4, 16]


def test_the_side_is_known_without_decoding(photos):
    assert known_side(f"folder:{photos}?size=24") == 24
    assert known_side(f"folder:{photos}") is None, "20 × 30 pixels"
    assert known_side("cifar10") == 32
