"""A job on a Ray cluster whose nodes share an S3 server only; one is killed in mid-run, another replaces it.

The story in which nothing replaces the lost node is in test_lost_node.py.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_pipelines"))

from ray_cluster import SECONDS, Cluster, S3Server, cluster_with_s3, wait_until

from viewgen.datasets import load_dataset
from viewgen.store import CacheReader, list_commits, open_storage, read_spec, verify_cache

NUM_IMAGES = 96


@pytest.fixture
def cluster_and_store() -> Iterator[tuple[Cluster, S3Server]]:
    pytest.importorskip("moto.server", reason="needs moto[server]")
    with cluster_with_s3() as made:
        yield made


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(1200)
def test_a_job_outlives_a_node_and_uses_one_that_joins(cluster_and_store, tally):
    cluster, store = cluster_and_store
    cluster.start_all(one=1, two=2)
    job = cluster.submit(
        "cache", "--dataset", "digits", "--method", "wsearch", "--views", "2", "--out", store.url,
        "--workers", "3", "--limit", str(NUM_IMAGES), "--shard-images", "4",
        "--ray-address", "auto", "--no-gallery",
    )  # fmt: skip
    try:
        storage = open_storage(store.url, store.options)

        def num_commits() -> int:
            if job.poll() is not None:
                pytest.fail(f"the job ended too early:\n{cluster.job_log()}")
            spec = read_spec(storage)
            return len(list_commits(storage, spec))

        wait_until(lambda: storage.exists("zarr.json") and num_commits() >= 2, "the first shards")
        published = {path.rpartition("/")[2] for path in storage.paths("run/inputs")}
        cluster.kill("one")
        cluster.start("three", "worker", 1)
        job.wait(timeout=SECONDS)
    finally:
        job.kill()
        log = cluster.job_log()
    print(log)
    assert job.returncode == 0, log
    for line in (
        "joining the Ray cluster at",
        "Ray dashboard: http://",
        f"wsearch: {NUM_IMAGES} of {NUM_IMAGES}",
    ):
        assert line in log
    assert cluster.environment["RAY_AUTH_TOKEN"] not in log

    assert verify_cache(store.url, store.options).ok
    reader = CacheReader(store.url, store.options)
    assert reader.rows.tolist() == list(range(NUM_IMAGES))
    digits = load_dataset("digits")
    assert np.array_equal(reader.labels, digits.labels(np.arange(NUM_IMAGES)))

    assert published, "weights and images were there by digest while the run went on"
    assert storage.paths("run/inputs") == []
    copies = {path.parent.name for path in cluster.data_root("two").glob("inputs/*/content")}
    assert published <= copies
    # two workers on one node, and again for the second stage: still once per node
    nodes = [name for name in ("one", "two", "three") if list(cluster.data_root(name).glob("inputs/*"))]
    assert max(store.num_downloads[digest] for digest in copies) <= len(nodes)
    tally(f"{NUM_IMAGES} images on three nodes, of which one was killed and another joined")
