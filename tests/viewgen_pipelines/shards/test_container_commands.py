"""A Ray job by the container images' commands: one node, an S3 server, a token, a gallery.

Nodes that join and nodes that are lost are in tests/chaos/.
"""

import re
import urllib.request

import numpy as np
import pytest
from ray_cluster import SECONDS, cluster_with_s3, wait_until

from viewgen.datasets import load_dataset
from viewgen.store import CacheReader, open_storage, verify_cache

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own code warns

NUM_IMAGES = 3
GALLERY = re.compile(r"gallery: (http://127\.0\.0\.1:\d+/c-\w+/) \(this machine only")


@pytest.mark.timeout(900)
def test_a_job_by_the_containers_commands():
    pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    with cluster_with_s3() as (cluster, store):
        token = cluster.environment["RAY_AUTH_TOKEN"]
        cluster.start_all(num_cpus=1)
        assert cluster.jobs_status("0" * 64) in (401, 403), "another token is refused"
        store.hold_commits(after=1)
        job = cluster.submit(
            "cache", "--dataset", "digits", "--method", "invert", "--max-steps", "2", "--out", store.url,
            "--workers", "1", "--limit", str(NUM_IMAGES), "--shard-images", "1",
            "--ray-address", "auto", "--gallery",
        )  # fmt: skip

        def running() -> bool:
            if job.poll() is not None:
                pytest.fail(f"the job ended too early:\n{cluster.job_log()}")
            return True

        try:
            storage = open_storage(store.url, store.options)
            wait_until(lambda: running() and store.num_commits >= 1, "the first shard")
            published = {path.rpartition("/")[2] for path in storage.paths("run/inputs")}
            wait_until(lambda: running() and GALLERY.search(cluster.job_log()), "the gallery's address")
            with urllib.request.urlopen(GALLERY.search(cluster.job_log())[1], timeout=60) as page:
                assert b"invert" in page.read()
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

        # weights and images: by digest, once, and nothing else
        assert len(published) >= 4, "images, labels, generator, inverter"
        assert storage.paths("run/inputs") == []
        assert {path.parent.name for path in cluster.data_root("head").glob("inputs/*/content")} == published
        assert {store.num_downloads[digest] for digest in published} == {1}
        # the code: viewgen's packages, in the driver's version
        shipped = [path for path in cluster.folder.glob("**/py_modules_files/*/**/*") if path.is_file()]
        known = {".py", ".toml", ".html", ".css", ".js", ".svg", ".npz", ".typed", ""}
        assert {path.suffix for path in shipped} <= known
        assert sum(path.stat().st_size for path in shipped) < 4e6
