"""Charts count every value once, and put their marks where they belong."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from viewgen_pipelines.gallery import numbers
from viewgen_pipelines.gallery.charts import Bars, Mark, bar_chart, bin_values
from viewgen_pipelines.gallery.index import CacheIndex

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


def test_a_matrix_has_distances_and_means():
    distances = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], np.float32)
    rows = numbers.matrix(distances)
    assert [cell["text"] for cell in rows[0]["cells"]] == ["–", "1.000", "2.000"]
    assert [row["mean"] for row in rows] == ["1.500", "2.000", "2.500"]
    assert rows[0]["cells"][1]["shade"] < rows[1]["cells"][2]["shade"]
