"""An experiment from its file to its tables: what is run, kept, resumed and refused."""

import csv

import pytest

pytestmark = pytest.mark.usefixtures("_no_pictures")


def test_whole(run_toy, tmp_path):
    result = run_toy()
    assert result.complete
    rows = [*csv.DictReader(open(tmp_path / "results" / "results.csv"))]
    print(open(tmp_path / "results" / "table.md").read())
    print(sorted(p.name for p in (tmp_path / "results").iterdir()))
    assert rows
