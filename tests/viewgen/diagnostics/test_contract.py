"""What every diagnostic promises, held against the built-in ones."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from viewgen.datasets import ImageDataset
from viewgen.datasets.dataset import MemoryImages
from viewgen.diagnostics import DIAGNOSTICS
from viewgen.diagnostics.measure import Subject
from viewgen.diagnostics.mutual_information.views import expert_kind, original_kind, view_pair
from viewgen.testing import DiagnosticContract
from viewgen.views.expert import ExpertConfig


def images(split: str, seed: int, count: int = 24) -> ImageDataset:
    random = np.random.default_rng(seed)
    return ImageDataset(
        name="noise",
        split=split,
        image_size=8,
        num_classes=2,
        class_names=("a", "b"),
        pixels=MemoryImages(random.integers(0, 256, (count, 3, 8, 8), np.uint8)),
        targets=np.arange(count) % 2,
    )


def pairs(dataset: ImageDataset) -> list:
    kinds = (original_kind(), expert_kind(ExpertConfig()))
    return [view_pair(*kinds, dataset, np.arange(len(dataset)))]


class _OfAnEncoder(DiagnosticContract):
    @pytest.fixture
    def subject(self, small_models) -> Subject:
        parts = {
            "train": lambda: images("train", 0),
            "test": lambda: images("test", 1),
            "encoder": lambda: small_models.encoder,
            "expert": ExpertConfig,
            "generator": lambda: small_models.generator,
            "inverter": lambda: small_models.inverter,
            "inverting": small_models.inverting,
            "discriminator": lambda: small_models.discriminator,
            "pairs": partial(pairs, images("train", 0, 64)),
        }
        return Subject(parts, name="noise")


class TestKnn(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("knn")


class TestWeightedKnn(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("weighted_knn")


class TestNearestCentre(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("nearest_centre")


class TestCollapse(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("collapse")
    settings = entry.settings(num_images=10)


class TestProbe(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("probe")
    settings = entry.settings(epochs=2, num_seeds=2, batch_size=8)


class TestCalibration(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("calibration")
    settings = entry.settings(num_images=10, num_views=2)


class TestAlignment(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("alignment")
    settings = entry.settings(num_draws=1)


class TestMutualInformation(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("mutual_information")
    settings = entry.settings(
        num_steps=4, batch_size=8, num_checks=1, num_draws=1, num_resamplings=40, width=2
    )


class TestReconstruction(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("reconstruction")
    settings = entry.settings(num_images=8, num_refined=1)

    @pytest.fixture(autouse=True)
    def _few_updates(self, monkeypatch):
        short = {"invert": {"max_steps": 3}}
        monkeypatch.setattr("viewgen.registry.recipe", lambda dataset, section: short.get(section, {}))


class TestRecognition(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("recognition")
    settings = entry.settings(num_images=16)


class TestFidelity(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("fidelity")
    settings = entry.settings(num_images=16, features="encoder")


class TestConcentration(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("concentration")
    settings = entry.settings(num_per_class=6, num_views=2, num_deltas=4)


class TestBounds(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("bounds")
    settings = entry.settings(num_per_class=6, num_views=2, num_deltas=4, num_epsilons=4)


class TestSuppression(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("suppression")
    settings = entry.settings(epochs=2, num_images=16, num_permutations=3)


class TestShortcuts(_OfAnEncoder):
    entry = DIAGNOSTICS.entry("shortcuts")
    settings = entry.settings(num_images=12)


def test_every_built_in_one_is_held_to_it():
    classes = [found for found in globals().values() if isinstance(found, type)]
    held = {found.entry.name for found in classes if hasattr(found, "entry")}
    # those of a cache have their contracts beside their other tests
    beside = Path(__file__).with_name("test_view_quality.py").read_text("utf-8")
    held |= set(re.findall(r'^    entry = DIAGNOSTICS.entry\("(\w+)"\)', beside, re.MULTILINE))
    assert held == {*DIAGNOSTICS.built_in}
