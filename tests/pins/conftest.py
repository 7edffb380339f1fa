"""The workplace of the pins: a copy of the golden files, in which commands run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# for `pinned` and `reach`, which the scripts beside them import too
sys.path.insert(0, str(Path(__file__).parent))

import pinned


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the golden files, which is the current folder; one thread."""
    with pinned.workplace(tmp_path_factory.mktemp("pins")) as folder:
        yield folder
