"""What every diagnostic promises, held against some of the built-in ones."""

import numpy as np
import pytest

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Subject
from viewgen.testing import DiagnosticContract
from viewgen.views.expert import ExpertConfig


def images(split: str, seed: int) -> ImageDataset:
    random = np.random.default_rng(seed)
    return ImageDataset(
        name="noise",
        split=split,
        image_size=8,
        num_classes=2,
        class_names=("a", "b"),
        pixels=MemoryImages(random.integers(0, 256, (24, 3, 8, 8), np.uint8)),
        targets=np.arange(24) % 2,
    )


class _OfAnEncoder(DiagnosticContract):
    @pytest.fixture
    def subject(self, small_models) -> Subject:
        parts = {
            "train": lambda: images("train", 0),
            "test": lambda: images("test", 1),
            "encoder": lambda: small_models.encoder,
            "expert": ExpertConfig,
        }
        return Subject(parts, name="noise")


class TestKnn(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("knn")


class TestProbe(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("probe")
    settings = entry.settings(epochs=2, num_seeds=2, batch_size=8)


class TestCalibration(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("calibration")
    settings = entry.settings(num_images=10, num_views=2)
