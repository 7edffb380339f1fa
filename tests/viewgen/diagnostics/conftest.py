"""Constructed caches for the tests of this folder, and a folder of classifiers."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def one_folder_of_classifiers(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder for all tests, so that a classifier of the same images is trained once."""
    folder = tmp_path_factory.getbasetemp() / "quality-caches"
    monkeypatch.setenv("VIEWGEN_CACHE", str(folder))
