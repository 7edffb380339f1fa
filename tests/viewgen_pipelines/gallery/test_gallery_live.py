"""A run is followed by what it leaves in the cache: shards, speed, time left, what went wrong."""

import time

import pytest

from viewgen_pipelines.gallery.index import CacheIndex
from viewgen_pipelines.gallery.live import find_troubles, follow
from viewgen_pipelines.shards.lease import Lease
from viewgen_pipelines.shards.ledger import AttemptLedger


def test_a_run_has_a_rate_and_an_end(make_cache, monkeypatch):
    cache = make_cache(shards=[0])
    index = CacheIndex(cache.url)
    still = follow(index, index.snapshot())
    assert (still.running, still.num_shards, still.views_per_second) == (False, 1, None)
    with Lease(cache.storage, "run-b") as lease:
        cache.commit(1, 2, run_id="run-b")
        monkeypatch.setattr("viewgen_pipelines.shards.ledger.time.time", lambda: lease._started + 12)
        AttemptLedger(cache.storage, "run-b", 3).begin(3)
        index = CacheIndex(cache.url)
        progress = follow(index, index.snapshot(), now=lease._started + 14)
        assert progress.running
        assert (progress.num_shards, progress.num_images, progress.shards_expected) == (3, 24, 5)
        assert progress.views_per_second == pytest.approx(16 * 3 / 12), (
            "the earlier run's shard does not count"
        )
        assert progress.seconds_left == pytest.approx(16 * 3 / 4 - 2), "two seconds of it are over"
        assert progress.shards_in_work == 1
        assert not progress.complete
    assert not follow(index, index.snapshot()).running, "the lease is given back"


def test_a_holder_that_died_does_not_run(make_cache, monkeypatch):
    cache = make_cache(shards=[0])
    with Lease(cache.storage, "run-b"):
        index = CacheIndex(cache.url)
        monkeypatch.setattr("viewgen_pipelines.gallery.live.process_is_alive", lambda _: False)
        assert not follow(index, index.snapshot()).running
        monkeypatch.setattr("viewgen_pipelines.gallery.live.process_is_alive", lambda _: None)
        assert follow(index, index.snapshot()).running, "on another machine, its heartbeat tells"
        assert not follow(index, index.snapshot(), now=time.time() + 60).running


def test_failed_samples_and_shards_come_with_reasons(make_cache):
    cache = make_cache(shards=[0])
    ledger = AttemptLedger(cache.storage, "run-b", 2)
    for shard_id, times in ((1, 2), (2, 1)):
        for number in range(times):
            ledger.end(ledger.begin(shard_id), "raised", f"ValueError: no. {number}")
    interrupted = ledger.begin(3)
    ledger.end(interrupted, "interrupted", "stopped by hand")
    index = CacheIndex(cache.url)
    found = find_troubles(index, index.snapshot())
    assert [(t.shard, t.rows, t.final) for t in found] == [
        (0, (6, 6), True),
        (1, (8, 15), True),
        (2, (16, 23), False),
    ]
    assert found[0].reason.startswith("ValueError")
    assert "no. 1" in found[1].reason
    cache.commit(1)
    index = CacheIndex(cache.url)
    assert [t.shard for t in find_troubles(index, index.snapshot())] == [0, 2], "a later attempt succeeded"
