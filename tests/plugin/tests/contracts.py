"""The plug-in keeps viewgen's contracts; run where it is installed: ``pytest tests/contracts.py``."""

import pytest
from plugin_datasets import ENTRY as STRIPES
from plugin_diagnostics import ENTRY as CONTRAST
from plugin_generators import Linear, LinearConfig
from plugin_objectives import ENTRY as MARGIN
from plugin_views import ENTRY as BLOCKS
from plugin_views import BlocksSettings

from viewgen.datasets import load_dataset
from viewgen.diagnostics.measure import Subject
from viewgen.testing import DatasetContract, DiagnosticContract, GeneratorContract, ViewSourceContract
from viewgen_train.testing import ObjectiveContract


class TestBlocks(ViewSourceContract):
    entry = BLOCKS
    settings = BlocksSettings(count=4)


class TestMargin(ObjectiveContract):
    entry = MARGIN


class TestContrast(DiagnosticContract):
    entry = CONTRAST

    @pytest.fixture
    def subject(self):
        return Subject({"test": lambda: load_dataset("stripes", "test")})


class TestStripes(DatasetContract):
    entry = STRIPES


class TestLinear(GeneratorContract):
    @pytest.fixture
    def generator(self):
        return Linear(LinearConfig(image_size=8))
