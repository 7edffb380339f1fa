"""The index: the small arrays of a cache that grows, is repaired, is replaced, is damaged."""

import numpy as np
import pytest

from viewgen.errors import MissingFileError
from viewgen.store import CacheReader, create_cache, drop_commits, open_storage
from viewgen.store.quality import write_scores
from viewgen_pipelines.gallery.index import CacheIndex


@pytest.fixture
def index_of():
    """An index whose clock moves on by a minute at every look, so that none is too early."""
    clock = iter(range(0, 10**9, 60))
    return lambda cache: CacheIndex(cache.url, clock=lambda: next(clock))


def test_columns_are_those_of_the_cache(make_cache, index_of):
    cache = make_cache()
    snapshot = index_of(cache).snapshot()
    reader = CacheReader(cache.url)
    assert snapshot.rows.tolist() == list(range(40))
    assert reader.rows.tolist() == [row for row in range(40) if row != 6]
    for name in ("label", "distance", "steps", "inversion_error", "source_index"):
        np.testing.assert_array_equal(snapshot.columns[name][reader.rows], reader.array(name))
    np.testing.assert_allclose(
        snapshot.worst_miss[reader.rows], np.abs(reader.distance - 0.3).max(axis=1), atol=1e-6
    )
    assert np.isnan(snapshot.mean_distance[6])
    assert snapshot.failure(6).startswith("ValueError")
    assert [snapshot.readable(row) for row in (5, 6, 40, -1)] == [True, False, False, False]


def test_it_grows_and_shrinks_with_the_commits(make_cache, index_of):
    cache = make_cache(shards=[1])
    index = index_of(cache)
    first = index.snapshot()
    assert first.rows.tolist() == list(range(8, 16))
    assert index.snapshot() is first, "nothing changed"
    cache.commit(0, 4)
    second = index.snapshot()
    assert second.rows.tolist() == [*range(16), *range(32, 40)]
    assert first.rows.tolist() == list(range(8, 16)), "a snapshot stays what it was"
    assert second.version > first.version
    drop_commits(cache.storage, cache.spec, [1])
    assert index.snapshot().rows.tolist() == [*range(8), *range(32, 40)]


def test_new_shards_are_read_and_old_ones_are_not_read_again(make_cache, index_of, monkeypatch):
    cache = make_cache(shards=[0, 1])
    index = index_of(cache)
    index.snapshot()
    asked = []
    shard = CacheReader.shard
    monkeypatch.setattr(CacheReader, "shard", lambda self, *a: asked.append((a[0], a[1])) or shard(self, *a))
    cache.commit(3)
    index.snapshot()
    assert [shard_id for shard_id, _ in asked] == [3]
    assert "views" not in asked[0][1]


def test_scores_that_are_written_again_under_the_same_names_are_seen(make_cache, index_of):
    cache = make_cache()
    index = index_of(cache)
    assert index.snapshot().scores == {}
    kept = cache.score()
    first = index.snapshot()
    np.testing.assert_array_equal(first.scores["density"], kept["density"])
    cache.score()
    assert index.snapshot() is first, "the same scores are no change"
    write_scores(cache.storage, cache.spec, kept | {"density": kept["density"] + 1})
    np.testing.assert_array_equal(index.snapshot().scores["density"], kept["density"] + 1)


def test_it_looks_at_most_once_a_second(make_cache):
    cache = make_cache(shards=[0])
    times = iter([0.0, 0.9, 1.1])
    index = CacheIndex(cache.url, clock=lambda: next(times))
    index.snapshot()
    cache.commit(1)
    assert len(index.snapshot().rows) == 8
    assert len(index.snapshot().rows) == 16


def test_another_cache_in_the_same_place_replaces_the_first(make_cache, index_of):
    cache = make_cache()
    index = index_of(cache)
    before = index.snapshot()
    other = make_cache("elsewhere", seed=8).spec
    create_cache(cache.storage, other, overwrite=True)
    after = index.snapshot()
    assert (after.spec.seed, len(after.rows)) == (8, 0)
    assert after.fingerprint(0) != before.fingerprint(0)


def test_a_damaged_shard_is_named_and_left_out(make_cache, index_of):
    cache = make_cache()
    path = cache.storage.local_path(cache.spec.array_layout()["steps"].object_path(2))
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    snapshot = index_of(cache).snapshot()
    assert list(snapshot.faulty) == [2]
    assert snapshot.rows.tolist() == [*range(16), *range(24, 40)]


def test_no_cache_is_said_until_there_is_one(tmp_path, make_cache, index_of):
    cache = make_cache(shards=[])
    cache.storage.delete_tree("")
    index = index_of(cache)
    with pytest.raises(MissingFileError):
        index.snapshot()
    create_cache(open_storage(cache.url), cache.spec)
    assert len(index.snapshot().rows) == 0
