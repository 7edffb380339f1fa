"""A cache as an object of notebooks, zarr-python, xarray and PyTorch."""

import base64
import io
import pickle
import re

import numpy as np
import pytest
from PIL import Image

import viewgen
from viewgen.errors import CorruptDataError, MissingExtraError
from viewgen.role_pictures import role_picture
from viewgen.store import open_storage
from viewgen.store.quality import write_report, write_scores
from viewgen.testing.caches import small_spec, write_random_cache
from viewgen.views import VIEWS

STATUS = np.array([1] * 5 + [2, 3] + [1] * 14)


@pytest.fixture(scope="module", params=["local", "memory"])
def cache(request, tmp_path_factory):
    """(URL, contents) of a cache of 21 rows in three shards, one of which has a name of its own."""
    url = (
        str(tmp_path_factory.mktemp("cache") / "views.zarr")
        if request.param == "local"
        else "memory://opening/v.zarr"
    )
    storage, spec = open_storage(url), small_spec(dataset={"name": "folder:<b>", "split": "train"})
    # what a dead attempt left at the plain name of a shard
    layout = spec.array_layout()["views"]
    from viewgen.store import create_cache

    create_cache(storage, spec)
    storage.write(layout.object_path(1), b"rubbish")
    contents = write_random_cache(storage, spec, status=STATUS)
    write_scores(storage, spec, {"label_margin": np.ones((21, 2), np.float32)})
    return url, contents


def test_zarr_python_sees_what_was_committed(cache):
    url, contents = cache
    group = viewgen.open(url).to_zarr()
    assert set(contents) <= set(group.array_keys())
    for name, expected in contents.items():
        np.testing.assert_array_equal(group[name][...], expected)
    with pytest.raises(ValueError, match="read-only"):
        group["label"][0] = 3


def test_zarr_python_sees_fill_values_where_a_shard_is_missing(tmp_path):
    url = str(tmp_path / "v.zarr")
    write_random_cache(open_storage(url), small_spec())
    (tmp_path / "v.zarr/commits/00000001.json").unlink()
    group = viewgen.open(url).to_zarr()
    assert (group["status"][8:16] == 0).all()
    assert (group["views"][8:16] == 0).all()
    (tmp_path / "v.zarr/views/c.0.0.0.0.0").write_bytes(b"")
    with pytest.raises(CorruptDataError, match=r"0 bytes, \d+ were committed"):
        viewgen.open(url).to_zarr()["views"][0]


def test_xarray_has_named_axes_scores_and_rows_that_can_be_read(cache):
    pytest.importorskip("xarray")
    url, contents = cache
    found = viewgen.open(url).to_xarray()
    used = np.delete(np.arange(21), 6)
    assert found.views.dims == ("image", "view", "channel", "y", "x")
    np.testing.assert_array_equal(found.views, contents["views"][used])
    np.testing.assert_array_equal(found.image, contents["source_index"][used])
    assert found.label.dtype == np.int64
    assert found.label_margin.shape == (20, 2)
    assert found.attrs["method"] == "wsearch"


def test_xarray_is_an_extra(cache, monkeypatch):
    monkeypatch.setattr("viewgen.extras.installed", lambda extra: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'viewgen\[xarray\]'"):
        viewgen.open(cache[0]).to_xarray()


def test_a_data_set_of_torch(cache):
    url, contents = cache
    dataset = viewgen.open(url, check="digest", statuses=(1, 2)).to_torch(views=[1], columns=["label_margin"])
    assert len(dataset) == 19
    np.testing.assert_array_equal(dataset[0]["views"][0], contents["views"][0, 1])
    assert len(viewgen.open(url).to_torch(use_unconverged=True)) == 20


def test_it_is_pickled_as_it_is(cache):
    again = pickle.loads(pickle.dumps(viewgen.open(cache[0])))
    assert type(again).__name__ == "Cache"
    assert len(again.to_torch()) == 19


def test_a_notebook_shows_statistics_and_views(cache):
    url, _ = cache
    storage, reader = open_storage(url), viewgen.open(url)
    html = reader._repr_html_()
    assert "20 of 21 images × 2 views, 3×4×4" in html
    assert "1 not converged, 1 failed" in html
    assert "ε₁ 0.3" in html
    assert "folder:&lt;b&gt; train" in html, "names are escaped"
    assert "<b>" not in html
    png = re.search(r"data:image/png;base64,(\w{8})", html)
    assert png is not None
    assert "quality" not in html
    write_report(storage, reader.spec, {"measures": [], "verdict": ["noise & <i>"], "notes": []})
    assert "noise &amp; &lt;i&gt;" in reader._repr_html_()


def test_a_notebook_shows_the_channels_of_each_role(tmp_path):
    """Grey of the first channel beside opponent colours of the others, as the gallery draws them."""
    url, roles = str(tmp_path / "colors.zarr"), VIEWS.entry("color").roles
    write_random_cache(open_storage(url), small_spec(method="color", roles=roles))
    reader = viewgen.open(url)
    html = reader._repr_html_()
    assert "an image a line: first, rest" in html
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"png;base64,([^\"]+)", html)[1])))
    for view, role in enumerate(roles):
        left = 2 + view * 50  # 4 px enlarged to 48, gaps of 2
        pixels = np.asarray(shown)[2:50:12, left : left + 48 : 12].transpose(2, 0, 1)
        drawn = role_picture(reader.views(reader.rows[:1])[0, view], role)
        np.testing.assert_array_equal(pixels, drawn)


def test_a_notebook_shows_an_empty_cache_and_one_of_two_channels(tmp_path):
    from viewgen.store import create_cache

    create_cache(open_storage(str(tmp_path / "empty.zarr")), small_spec())
    html = viewgen.open(str(tmp_path / "empty.zarr"))._repr_html_()
    assert "0 of 21 images" in html
    assert "<img" not in html
    write_random_cache(open_storage(str(tmp_path / "two.zarr")), small_spec(channels=2))
    assert "<img" in viewgen.open(str(tmp_path / "two.zarr"))._repr_html_()
