"""What every data set promises, held against those that need no download."""

import pytest
from PIL import Image

from viewgen.datasets import DATASETS
from viewgen.testing import DatasetContract


class TestDigits(DatasetContract):
    entry = DATASETS.entry("digits")


class TestTrifeature(DatasetContract):
    entry = DATASETS.entry("trifeature")
    settings = DATASETS.entry("trifeature").settings(size=16)


class TestTrifeatureByCombinations(DatasetContract):
    entry = DATASETS.entry("trifeature")
    settings = DATASETS.entry("trifeature").settings(size=16, split="combinations")

    def test_what_is_known_beforehand_holds(self, dataset, root):
        assert len(dataset) == 80_000


class TestOverlay(DatasetContract):
    entry = DATASETS.entry("overlay")
    settings = DATASETS.entry("overlay").settings(background="digits", size=32, tint=True)


class TestFolder(DatasetContract):
    entry = DATASETS.entry("folder")

    @pytest.fixture(autouse=True)
    def _pictures(self, tmp_path, monkeypatch):
        for split, shade in (("train", 0), ("test", 100)):
            for label in ("a", "b"):
                folder = tmp_path / "pictures" / split / label
                folder.mkdir(parents=True)
                for number in range(3):
                    Image.new("RGB", (8, 8), (shade, number * 20, ord(label))).save(folder / f"{number}.png")
        chosen = self.entry.settings(path=str(tmp_path / "pictures"))
        monkeypatch.setattr(type(self), "settings", chosen)


class TestPhotos(DatasetContract):
    entry = DATASETS.entry("photos")

    @pytest.fixture(autouse=True)
    def _pictures(self, tmp_path, monkeypatch):
        for split, shade in (("DIV2K_train_HR", 0), ("DIV2K_valid_HR", 100)):
            folder = tmp_path / "pictures" / split
            folder.mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (20, 14), (shade, number * 20, 7)).save(folder / f"{number}.png")
        chosen = self.entry.settings(path=str(tmp_path / "pictures"), size=8, windows=3)
        monkeypatch.setattr(type(self), "settings", chosen)
