"""Tables of rows: differences stand beside few measures, and apart from many."""

from types import SimpleNamespace

import pytest

from viewgen_train.experiment.grid import Row
from viewgen_train.experiment.summary import RowSummary, Summary
from viewgen_train.experiment.tables import accuracy_table, difference_table

MEASURES = ("top1", "loss", "alignment", "area")


@pytest.fixture
def summary():
    rows = [
        RowSummary(
            row=Row(name=name, label=name, group=name, axes={}, train={}, cache=None, seeds=(0, 1)),
            values={one: {0: first, 1: first + 0.02 + more} for one in MEASURES},
            lost={},
            curves={},
            seconds=1.0,
        )
        for name, first, more in (("plain", 0.5, 0.0), ("other", 0.6, 0.01))
    ]
    return Summary(rows={one.row.name: one for one in rows}, caches={}, baseline=rows[0])


def plan(*measures):
    about = SimpleNamespace(measures=measures, dataset="digits")
    return SimpleNamespace(document=SimpleNamespace(experiment=about))


def test_differences_stand_beside_few_measures(summary):
    table = accuracy_table(plan(*MEASURES[:3]), summary)
    assert table.titles.count("less the baseline (95 % interval), higher in") == 3
    assert table.rows[0][3] == "baseline"
    assert table.rows[1][3].startswith("+10.50 (")
    assert difference_table(plan(*MEASURES[:3]), summary) is None


def test_differences_stand_apart_from_many(summary):
    table = accuracy_table(plan(*MEASURES), summary)
    assert len(table.titles) == 2 + len(MEASURES)
    apart = difference_table(plan(*MEASURES), summary)
    assert apart is not None
    assert [line[0] for line in apart.rows] == ["other"]
    assert [cell.split(" ")[0] for cell in apart.rows[0][1:]] == ["+10.50", "+0.105", "+0.105", "+0.105"]
    without = Summary(rows=summary.rows, caches={}, baseline=None)
    assert difference_table(plan(*MEASURES), without) is None
