"""What every view source promises, held against those of a cache and the images themselves."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from random_flow import STATISTICS, write_flow
from random_viewmaker import write_viewmaker

from viewgen.datasets import load_dataset
from viewgen.datasets.moving_digits import RenderedClips
from viewgen.inversion.settings import InvertConfig
from viewgen.networks.generator import Generator
from viewgen.networks.recorded import packed
from viewgen.testing import GeneratorContract, LearnedSourceContract, ViewSourceContract
from viewgen.views import VIEWS
from viewgen.views.flow import FlowViewsConfig
from viewgen.views.frozen_viewmaker import FrozenViewmakerConfig
from viewgen.views.wsearch.settings import WSearchConfig


class TestExpert(ViewSourceContract):
    entry = VIEWS.entry("expert")
    exact = False  # crops are sums of products in float32, whose order depends on the batch


class TestOriginal(ViewSourceContract):
    entry = VIEWS.entry("original")
    random = False


class TestColor(ViewSourceContract):
    entry = VIEWS.entry("color")
    random = False
    exact = False  # cube roots of another batch size differ in the last digit


class TestFlow(ViewSourceContract):
    entry = VIEWS.entry("flow")
    random = False
    exact = False  # sums of products

    @cached_property
    def settings(self):
        with TemporaryDirectory() as folder:
            return FlowViewsConfig(weights=packed(write_flow(Path(folder))), **STATISTICS)


class TestFrequency(ViewSourceContract):
    entry = VIEWS.entry("frequency")
    random = False
    exact = False  # sums of products


class TestPatches(ViewSourceContract):
    entry = VIEWS.entry("patches")


class TestJigsaw(ViewSourceContract):
    entry = VIEWS.entry("jigsaw")
    image_size = 26
    exact = False  # interpolation


class TestMovingDigits(ViewSourceContract):
    entry = VIEWS.entry("moving-digits")
    image_size = 64
    num_images = 4

    def resources(self, models, batch_size=None):
        digits = load_dataset("digits")
        clips = RenderedClips("train", digits, digits)
        return replace(super().resources(models, batch_size), dataset=replace(digits, pixels=clips))


class _WithNetworks(ViewSourceContract):
    @pytest.fixture
    def models(self, small_models):
        return small_models

    @pytest.fixture
    def codes(self, image_batch):
        return torch.from_numpy(image_batch["anchor_w_plus"][: self.num_images])


class TestWPerturb(_WithNetworks):
    entry = VIEWS.entry("wperturb")


class TestWSearch(_WithNetworks):
    entry = VIEWS.entry("wsearch")
    settings = WSearchConfig(max_steps=6)


class TestWBoundary(_WithNetworks):
    entry = VIEWS.entry("wboundary")


class TestInvert(_WithNetworks):
    entry = VIEWS.entry("invert")
    settings = InvertConfig(max_steps=4, perceptual="none")
    random = False


class TestOnline(_WithNetworks):
    entry = VIEWS.entry("online")
    exact = False  # one step of gradients, whose rounding at another batch size may turn a sign


class TestViewmaker(LearnedSourceContract):
    entry = VIEWS.entry("viewmaker")
    exact = False  # networks at another batch size


class TestFrozenViewmaker(ViewSourceContract):
    entry = VIEWS.entry("frozen-viewmaker")

    @cached_property
    def settings(self):
        with TemporaryDirectory() as folder:
            return FrozenViewmakerConfig(weights=packed(write_viewmaker(Path(folder))))


def test_every_built_in_source_is_held_to_it():
    classes = [found for found in globals().values() if isinstance(found, type)]
    held = {found.entry.name for found in classes if hasattr(found, "entry")}
    # views of a cache are what the cache's tests are about
    assert held == {*VIEWS.built_in} - {"cache"}


class TestStyleGan2(GeneratorContract):
    @pytest.fixture
    def generator(self, small_models) -> Generator:
        return small_models.inverting()
