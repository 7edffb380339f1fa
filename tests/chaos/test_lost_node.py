"""A Ray job over raylets that share an S3 server only: one joins, one is lost for good.

By the commands of the container images, with a token and a gallery. The other story, in which another node
replaces the lost one, is in test_cluster.py.
"""

import json
import re
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_pipelines"))

from ray_cluster import SECONDS, cluster_with_s3, wait_until

from viewgen.datasets import load_dataset
from viewgen.store import CacheReader, open_storage, verify_cache
from viewgen_pipelines.shards.ledger import AttemptLedger

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own code warns

NUM_IMAGES = 6
GALLERY = re.compile(r"gallery: (http://127\.0\.0\.1:\d+/c-\w+/) \(this machine only")


@pytest.fixture
def cluster_and_store():
    pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    with cluster_with_s3() as made:
        yield made


@pytest.mark.chaos
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(1200)
def test_a_job_uses_a_node_that_joins_and_outlives_one_that_is_lost_for_good(cluster_and_store):
    cluster, store = cluster_and_store
    token = cluster.environment["RAY_AUTH_TOKEN"]
    cluster.start_all(one=1)
    assert cluster.jobs_status("0" * 64) in (401, 403), "another token is refused"
    store.hold_commits(after=2)
    job = cluster.submit(
        "cache", "--dataset", "digits", "--method", "invert", "--max-steps", "2", "--out", store.url,
        "--workers", "2", "--limit", str(NUM_IMAGES), "--shard-images", "1",
        "--ray-address", "auto", "--gallery",
    )  # fmt: skip
    try:
        storage = open_storage(store.url, store.options)
        ledger = AttemptLedger(storage, "", 1)

        def running() -> bool:
            if job.poll() is not None:
                pytest.fail(f"the job ended too early:\n{cluster.job_log()}")
            return True

        def nodes_at_work() -> set[str]:
            markers = [path for path in storage.paths("run/attempts") if path.endswith("-started.json")]
            return {json.loads(storage.read(path))["node"] for path in markers}

        wait_until(lambda: running() and store.num_commits >= 2, "the first shards")
        cluster.start("two", "worker", 1)
        wait_until(lambda: running() and len(nodes_at_work()) == 2, "work on the node that joined")
        published = {path.rpartition("/")[2] for path in storage.paths("run/inputs")}
        wait_until(
            lambda: running() and GALLERY.search(cluster.job_log()), "the gallery's address in the log"
        )
        with urllib.request.urlopen(GALLERY.search(cluster.job_log())[1], timeout=60) as page:
            assert b"invert" in page.read()
        assert cluster.healthy("one")
        cluster.kill("one")  # with a shard in hand
        assert not cluster.healthy("one")
        store.release_commits()
        job.wait(timeout=SECONDS)
    finally:
        job.kill()
        log = cluster.job_log()
    assert job.returncode == 0, log
    for pattern in (
        "joining the Ray cluster at auto",
        r"Ray dashboard: http://127\.0\.0\.1:\d+ \(log in",
        f"invert: 0 of {NUM_IMAGES} images there",
        f"invert: {NUM_IMAGES} of {NUM_IMAGES} images",
    ):
        assert re.search(pattern, log), f"{pattern} in\n{log}"
    assert token not in log

    assert verify_cache(store.url, store.options).ok
    reader = CacheReader(store.url, store.options)
    assert reader.rows.tolist() == list(range(NUM_IMAGES))
    assert np.array_equal(reader.labels, load_dataset("digits").labels(np.arange(NUM_IMAGES)))
    histories = ledger.histories().values()
    ends = sorted(([attempt.outcome for attempt in history.attempts] for history in histories), key=len)
    assert ends == [[None]] * (NUM_IMAGES - 1) + [["interrupted", None]], (
        "one shard was made again, elsewhere"
    )

    # weights and images: by digest, once per node, and nothing else
    assert len(published) >= 4, "images, labels, generator, inverter"
    assert storage.paths("run/inputs") == []
    for name in ("one", "two"):
        copies = {path.parent.name for path in cluster.data_root(name).glob("inputs/*/content")}
        assert copies == published
    assert {store.num_downloads[digest] for digest in published} == {2}
    # the code: viewgen's packages, in the driver's version
    files = cluster.folder.glob("**/py_modules_files/*/**/*")
    shipped = [path for path in files if path.is_file() and path.suffix != ".pyc"]  # compiled there
    known = {".py", ".toml", ".html", ".css", ".js", ".svg", ".npz", ".typed", ""}
    assert {path.suffix for path in shipped} <= known
    assert sum(path.stat().st_size for path in shipped if path.is_file()) < 4e6
