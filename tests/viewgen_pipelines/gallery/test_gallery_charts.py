"""Charts count every value once, and put their marks where they belong."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from viewgen_pipelines.gallery import numbers
from viewgen_pipelines.gallery.charts import MOST_FOR_PERCENTILES, Bars, Mark, bar_chart, bin_values
from viewgen_pipelines.gallery.index import CacheIndex
from viewgen_pipelines.gallery.pages import Pages
from viewgen_pipelines.gallery.sources import CacheSource

floats = st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(float("nan"))


@given(arrays.arrays(np.float64, st.integers(0, 60), elements=floats))
def test_every_finite_value_is_counted_or_said_to_be_outside(values):
    bars = bin_values(values, include=[0.3])
    finite = np.isfinite(values).sum()
    if not finite:
        assert bars is None
        return
    assert bars.counts.sum() + bars.outside == finite
    assert bars.low < bars.high
    assert bars.low <= 0.3 <= bars.high
    bar_chart(bars, title="t", marks=[Mark(value=0.3, name="ε₁")])


def test_equal_values_make_one_bar():
    bars = bin_values(np.full(7, 0.3))
    assert (bars.counts.max(), bars.outside) == (7, 0)


def test_bars_of_many_values_end_where_nearly_all_of_them_lie():
    values = np.random.default_rng(0).normal(0, 1, 5 * MOST_FOR_PERCENTILES).astype(np.float32)
    bars = bin_values(values)
    assert (bars.low, bars.high) == pytest.approx((-2.83, 2.83), abs=0.05)  # ±2.576, a tenth wider
    assert bars.counts.sum() + bars.outside == len(values)
    assert bars.outside / len(values) == pytest.approx(0.0047, abs=0.001)


def test_bars_are_as_high_as_their_counts_and_names_are_escaped():
    bars = Bars(counts=np.array([1, 4, 0, 2]), low=0.0, high=4.0)
    svg = bar_chart(bars, title="<b>", marks=[Mark(value=2.0, name="<ε>")], noun="<n>")
    heights = [float(h) for h in re.findall(r'class="bar".*?height="([\d.]+)"', svg)]
    assert heights == pytest.approx([heights[1] / 4, heights[1], heights[1] / 2])
    assert "<b>" not in svg
    assert "<ε>" not in svg
    assert "<n>" not in svg
    assert float(re.search(r'class="mark" x1="([\d.]+)"', svg)[1]) == pytest.approx(210)


def test_names_of_marks_at_the_edge_stand_beside_each_other():
    bars = Bars(counts=np.ones(10), low=0.0, high=1.0)
    svg = bar_chart(bars, title="t", marks=[Mark(value=v, name="name") for v in (0.1, 0.95, 0.97)])
    found = re.findall(r'class="mark-name" x="([\d.]+)" y="12" text-anchor="(\w+)">(.*?)<', svg)
    assert [(anchor, text) for _, anchor, text in found] == [
        ("end", "name 0.97"), ("end", "name 0.95"), ("start", "name 0.1")
    ]  # fmt: skip
    last, before = (float(x) for x, anchor, _ in found if anchor == "end")
    assert last - before > 6 * len("name 0.97"), "the width of the last name"


def test_nothing_to_draw_is_said():
    assert "Nothing" in bar_chart(None, title="t")


def test_the_overview_has_every_histogram_with_its_target(make_cache):
    snapshot = CacheIndex(make_cache().url).snapshot()
    charts = {chart["title"]: chart["svg"] for chart in numbers.charts(snapshot)}
    assert "ε₁ 0.3" in charts["Distance from the anchor"]
    between = charts["Mean distance between an image's views"]
    assert "ε₂ 0.5" in between
    assert "0.4 – 0.42: 40 images" in between
    assert {"Steps to converge", "Inversion error (mean squared)", "Throughput of each shard"} <= set(charts)
    said = re.findall("<title>(.*?): .*? (.*?)</title>", charts["Throughput of each shard"])
    assert said == [(f"shard {number}", "views/s") for number in range(5)]


def test_numbers_are_computed_once_until_the_cache_has_grown(make_cache, monkeypatch):
    made = make_cache(shards=range(3))
    seconds, counted = iter(range(0, 1000, 10)), []
    source = CacheSource(url=made.url)
    source.index._clock = lambda: float(next(seconds))  # every request looks at the storage
    charts = numbers.charts
    monkeypatch.setattr(numbers, "charts", lambda one: counted.append(one.version) or charts(one))
    pages = Pages(source)
    first = pages.overview()
    assert pages.overview() == first
    assert counted == [1]
    made.commit(3)
    assert pages.overview() != first
    assert counted == [1, 2]


def test_a_matrix_has_distances_and_means():
    distances = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], np.float32)
    rows = numbers.matrix(distances)
    assert [cell["text"] for cell in rows[0]["cells"]] == ["–", "1.000", "2.000"]
    assert [row["mean"] for row in rows] == ["1.500", "2.000", "2.500"]
    assert rows[0]["cells"][1]["shade"] < rows[1]["cells"][2]["shade"]
