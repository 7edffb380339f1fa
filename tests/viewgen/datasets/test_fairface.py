"""FairFace-like folders, in the published layout: attributes of different sizes, and damage."""

import numpy as np
import pytest
from PIL import Image

from viewgen.datasets import load_dataset
from viewgen.errors import CorruptDataError, DataError, UsageError

HEAD = "file,age,gender,race,service_test\n"
ROWS = {
    "train": [
        "50-59,Male,East Asian,True", "more than 70,Female,White,False", "0-2,Male,Latino_Hispanic,False",
    ],
    "val": ["3-9,Female,Indian,True"],
}  # fmt: skip


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "fairface"
    for split, rows in ROWS.items():
        (folder / split).mkdir(parents=True)
        lines = [f"{split}/{number}.jpg,{row}\n" for number, row in enumerate(rows, 1)]
        (folder / f"fairface_label_{split}.csv").write_text(HEAD + "".join(lines))
        for number in range(1, len(rows) + 1):
            shade = 60 * number + (30 if split == "val" else 0)
            Image.new("RGB", (24, 24), (shade, 0, 0)).save(folder / split / f"{number}.jpg", quality=95)
    return folder


@pytest.fixture
def load(faces, tmp_path):
    return lambda split="train", query="": load_dataset(
        f"fairface:{faces}{query}", split, data_root=tmp_path / "data"
    )


def test_attributes_have_classes_of_their_own(load):
    train, test = load(), load("test")
    sizes = {one.name: one.num_classes for one in train.attributes}
    assert sizes == {"age": 9, "gender": 2, "race": 7}
    assert train.label_text(train.targets[1]) == "more than 70, Female, White"
    assert test.label_text(test.targets[0]) == "3-9, Female, Indian"
    assert (len(train), len(test), train.image_size) == (3, 1, 24)
    # the picture belongs to its row
    assert np.allclose(train.images(np.arange(3))[:, 0].mean(axis=(1, 2)), [60, 120, 180], atol=2)
    assert load("val").digest == test.digest != train.digest
    again = load_dataset(train.name, data_root=train.pixels.path.parents[3])
    assert (again.digest, again.attributes) == (train.digest, train.attributes)


def test_pictures_are_scaled(load, faces):
    Image.new("RGB", (40, 30)).save(faces / "train/2.jpg")
    with pytest.raises(DataError, match=r"2.jpg is 40×30 pixels.*add \?size=64"):
        load()
    assert load(query="?size=16").image_size == 16


def test_damage_is_told(load, faces, tmp_path):
    table = faces / "fairface_label_train.csv"
    text = table.read_text()
    cases = [
        (text.replace("East Asian", "Martian"), CorruptDataError, "line 2: 'Martian' is none of Black"),
        (text.replace("race", "raze"), CorruptDataError, "lacks rows or columns"),
        (HEAD, CorruptDataError, "lacks rows or columns"),
        (text.replace("train/3", "../3"), CorruptDataError, "lies outside"),
        (text.replace("train/3", "train/4"), FileNotFoundError, r"line 4, names .*train/4.jpg"),
    ]
    for changed, kind, message in cases:
        table.write_text(changed)
        with pytest.raises(kind, match=message):
            load()
    table.unlink()
    with pytest.raises(FileNotFoundError, match="as it is published"):
        load()
    with pytest.raises(UsageError, match="needs a path"):
        load_dataset("fairface", data_root=tmp_path)
