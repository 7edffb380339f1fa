"""Order and filters of the grid, against plain Python."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewgen.store.quality import write_scores
from viewgen_pipelines.gallery.index import CacheIndex
from viewgen_pipelines.gallery.pages import Pages
from viewgen_pipelines.gallery.queries import (
    PAGE_SIZES,
    PART_FILTERS,
    SORTS,
    STATUS_NAMES,
    VIEW_FILTERS,
    Query,
    select,
)
from viewgen_pipelines.gallery.sources import CacheSource


@pytest.fixture
def snapshot(make_cache):
    cache = make_cache(shards=[0, 1, 3, 4])
    cache.score()
    return CacheIndex(cache.url).snapshot()


@pytest.mark.parametrize(("key", "sign"), list(itertools.product(SORTS, ["", "-"])))
def test_order_is_by_the_number_asked_for_and_unknown_comes_last(snapshot, key, sign):
    values = {
        "row": np.arange(40.0),
        "distance": snapshot.columns["distance"].mean(axis=1),
        "miss": np.abs(snapshot.columns["distance"] - np.float32(0.3)).max(axis=1),
        "error": snapshot.columns["inversion_error"],
        "steps": snapshot.columns["steps"].astype(float),
        "margin": snapshot.scores["label_margin"].min(axis=1),
        "pair": snapshot.scores["nearest_view"].min(axis=1),
        "density": snapshot.scores["density"].mean(axis=1),
    }[key]
    rows = select(snapshot, Query(sort=sign + key)).tolist()
    assert sorted(rows) == [*range(16), *range(24, 40)]
    numbers = [float(values[row]) for row in rows if not math.isnan(values[row])]
    assert numbers == sorted(numbers, reverse=bool(sign))
    if key in ("distance", "miss", "pair", "density"):
        assert rows[-1] == 6, "a failed image has no distance and no score"


@pytest.mark.parametrize("status", [*STATUS_NAMES.values(), ""])
@pytest.mark.parametrize("label", ["", "0", "2", "7", "0.1", "1.0"])
def test_filters_keep_exactly_what_fits(snapshot, status, label):
    names = {5: "not-converged", 6: "failed"}
    rows = select(snapshot, Query(status=status, label=label)).tolist()
    classes = {"": {0, 1, 2}, "0.1": {1}, "1.0": set()}.get(label) or (
        {int(label)} if label.isdigit() else set()
    )
    expected = [
        row
        for row in snapshot.rows.tolist()
        if (not status or names.get(row, "ok") == status) and row % 3 in classes
    ]
    assert rows == expected


def test_images_are_filtered_by_what_their_views_are_read_as(snapshot, make_cache):
    there = [row for row in snapshot.rows.tolist() if row != 6]
    found = {views: select(snapshot, Query(views=views)).tolist() for views in ("foreign", "kept", "unread")}
    assert found["unread"] == [row for row in there if row % 5 == 4]
    assert found["foreign"] == [row for row in there if row % 6 == 3 and row % 5 != 4]
    assert sorted(row for rows in found.values() for row in rows) == there
    unscored = CacheIndex(make_cache("unscored").url).snapshot()
    assert not select(unscored, Query(views="foreign")).size


def test_main_parts_and_outliers_are_filtered_and_marked(make_cache):
    cache = make_cache()
    scores = cache.score()
    rows = np.arange(len(scores["density"]))[:, None]
    inside = np.where(rows < 20, rows % 4 != 1, np.nan) + 0 * scores["density"]
    write_scores(cache.storage, cache.spec, {"main_part": inside.astype(np.float32)})
    snapshot = CacheIndex(cache.url).snapshot()
    there = [row for row in range(20) if row != 6]  # row 6 has failed
    assert select(snapshot, Query(views="outlier")).tolist() == [row for row in there if row % 4 == 1]
    assert select(snapshot, Query(views="main-part")).tolist() == [row for row in there if row % 4 != 1]
    page = Pages(CacheSource(url=cache.url)).images(Query(views="outlier"))
    assert page.count(">outlier</span>") == 5
    assert "outside of its class&#39;s main part" in page
    assert "with a view of another class" not in page, "there are no margins"


def test_attributes_of_a_label_are_filtered_one_by_one(make_cache):
    cache = make_cache(shards=[], label_shape=(2,))
    make = cache.make

    def with_attributes(shard_id):
        arrays = make(shard_id)
        rows = arrays["source_index"]
        arrays["label"] = np.stack([rows % 2, rows % 5], axis=1)
        return arrays

    cache.make = with_attributes
    cache.commit(*range(5))
    snapshot = CacheIndex(cache.url).snapshot()
    assert select(snapshot, Query(label="1.3")).tolist() == [3, 8, 13, 18, 23, 28, 33, 38]
    assert select(snapshot, Query(label="0.1")).tolist() == list(range(1, 40, 2))


@given(
    st.dictionaries(
        st.sampled_from(["sort", "class", "status", "views", "page", "size", "x"]), st.text(max_size=12)
    )
)
def test_no_query_string_breaks_it(parameters):
    query = Query.parse(parameters)
    assert query.sort.removeprefix("-") in SORTS
    assert query.size in PAGE_SIZES
    assert 1 <= query.page < 10**9
    assert query.status in ("", *STATUS_NAMES.values())
    assert query.views in ("", *VIEW_FILTERS, *PART_FILTERS)
    assert all(part.removeprefix("-").isdigit() for part in query.label.split(".") if query.label)


def test_a_query_survives_its_own_text():
    from urllib.parse import parse_qsl

    query = Query(sort="-miss", label="0.3", status="ok", views="foreign", page=7, size=48)
    assert Query.parse(dict(parse_qsl(query.text().removeprefix("?")))) == query
    assert Query().text() == ""
