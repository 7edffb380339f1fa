"""Views of a cache in Ray Data."""

import re
from pathlib import Path

import numpy as np
import pytest

import viewgen.ray
from viewgen.errors import MissingFileError, UsageError
from viewgen.store import open_storage
from viewgen.store.quality import write_scores
from viewgen.testing.caches import small_spec, write_random_cache
from viewgen_pipelines.ray_data import read_shard

STATUS = np.array([1] * 5 + [2, 3] + [1] * 14)
PAGE = Path(__file__).parents[2] / "docs/how-to/ray-data.md"


@pytest.fixture
def cache(tmp_path):
    url = str(tmp_path / "views.zarr")
    storage, spec = open_storage(url), small_spec()
    contents = write_random_cache(storage, spec, status=STATUS)
    margin = np.arange(42, dtype=np.float32).reshape(21, 2)
    write_scores(storage, spec, {"label_margin": margin})
    return url, contents | {"label_margin": margin}


def test_a_shard_is_a_block(cache):
    url, contents = cache
    options = {"arrays": ("views", "label"), "columns": ("label_margin",), "storage_options": None}
    shard = {"shard": np.array([0])}
    block = read_shard(shard, url=url, statuses=(1,), **options)
    rows = [0, 1, 2, 3, 4, 7]
    assert block["row"].tolist() == rows
    for name in ("views", "label", "label_margin"):
        np.testing.assert_array_equal(block[name], contents[name][rows])
    more = read_shard(shard, url=url, statuses=(1, 2), **options)
    assert more["row"].tolist() == [0, 1, 2, 3, 4, 5, 7]


def test_what_is_not_there_is_refused_before_anything_starts(cache, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="no array 'codes'"):
        viewgen.ray.read_views(cache[0], arrays=["codes"])
    with pytest.raises(UsageError, match="label_margin"):
        viewgen.ray.read_views(cache[0], columns=["margin"])
    with pytest.raises(MissingFileError, match="no cache"):
        viewgen.ray.read_views(str(tmp_path / "nothing.zarr"))
    with pytest.raises(AttributeError, match="read_view"):
        viewgen.ray.read_view  # noqa: B018


@pytest.mark.xdist_group("ray")
@pytest.mark.filterwarnings("ignore")  # Ray's own code warns
def test_ray_data_reads_all_rows(shared_ray, cache, tmp_path, monkeypatch):
    url, contents = cache
    views = viewgen.ray.read_views(url)
    rows = sorted(views.take_all(), key=lambda row: row["row"])
    used = np.delete(np.arange(21), [5, 6])
    assert [row["row"] for row in rows] == used.tolist()
    for name in ("views", "label", "distance", "source_index"):
        np.testing.assert_array_equal(np.stack([row[name] for row in rows]), contents[name][used])
    monkeypatch.chdir(tmp_path)
    for snippet in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(snippet, str(PAGE), "exec"), {"__name__": "__main__"})
