"""A job on a Ray cluster whose nodes share an S3 server only; one is killed in mid-run and another joins."""

import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_pipelines"))

from ray_cluster import SECONDS, Cluster, wait_until

from viewgen.datasets import load_dataset
from viewgen.store import CacheReader, list_commits, open_storage, read_spec, verify_cache

NUM_IMAGES = 96
URL = "s3://bucket/folder/c.zarr"


@pytest.fixture
def s3_options() -> Iterator[dict[str, Any]]:
    """Storage options of an S3 look-alike in this process, with a bucket."""
    import s3fs

    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "key": "AKIAEXAMPLEKEY",
        "secret": "example-secret",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}"},
    }
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield options
    server.stop()


@pytest.fixture
def cluster(s3_options: dict[str, Any]) -> Iterator[Cluster]:
    # Ray's socket paths must stay short
    made = Cluster(Path(tempfile.mkdtemp(prefix="vg", dir="/tmp")), s3_options)
    yield made
    made.close()


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_job_outlives_a_node_and_uses_one_that_joins(cluster, s3_options):
    token = cluster.environment["RAY_AUTH_TOKEN"]
    cluster.start("head", "head", 0)
    cluster.wait_healthy("head")
    wait_until(lambda: cluster.jobs_status(token) == 200, "the job server")
    assert cluster.jobs_status("0" * 64) in (401, 403), "another token is refused"
    for name in ("one", "two"):
        cluster.start(name, "worker", 1)
        cluster.wait_healthy(name)
    job = cluster.submit(
        "cache", "--dataset", "digits", "--method", "invert", "--out", URL, "--workers", "2",
        "--limit", str(NUM_IMAGES), "--shard-images", "4", "--ray-address", "auto",
    )  # fmt: skip
    try:
        storage = open_storage(URL, s3_options)

        def num_commits() -> int:
            if job.poll() is not None:
                pytest.fail(f"the job ended too early:\n{job.communicate()[0]}")
            if not storage.exists("zarr.json"):
                return 0
            return len(list_commits(storage, read_spec(storage)))

        wait_until(lambda: num_commits() >= 2, "the first shards")
        published = {path.rpartition("/")[2] for path in storage.paths("run/inputs")}
        cluster.kill("one")
        cluster.start("three", "worker", 1)
        log, _ = job.communicate(timeout=SECONDS)
    finally:
        job.kill()
    print(log)
    assert job.returncode == 0, log
    progress = f"{NUM_IMAGES} of {NUM_IMAGES} images"
    for line in ("joining the Ray cluster at", "Ray dashboard: http://", progress):
        assert line in log
    assert token not in log

    assert verify_cache(URL, s3_options).ok
    reader = CacheReader(URL, s3_options)
    assert reader.rows.tolist() == list(range(NUM_IMAGES))
    digits = load_dataset("digits")
    assert np.array_equal(reader.labels, digits.labels(np.arange(NUM_IMAGES)))

    assert published, "weights and images were there by digest while the run went on"
    assert storage.paths("run/inputs") == []
    copies = {path.parent.name for path in cluster.data_root("two").glob("inputs/*/content")}
    assert copies == published, "each file once on the node, and nothing else"
