"""What every objective promises, held against the built-in ones."""

import pytest

from viewgen_train.objectives import OBJECTIVES
from viewgen_train.testing import ObjectiveContract


@pytest.fixture(params=OBJECTIVES.built_in, autouse=True)
def _entry(request, monkeypatch):
    monkeypatch.setattr(TestBuiltIn, "entry", OBJECTIVES.entry(request.param), raising=False)


class TestBuiltIn(ObjectiveContract):
    pass
