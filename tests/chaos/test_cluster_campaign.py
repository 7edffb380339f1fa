"""The cluster test's long form: both stages of W-search, node after node killed, equal to a local cache."""

import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "viewgen_pipelines"))

from ray_cluster import Cluster

from viewgen.store import CacheReader, verify_cache
from viewgen_pipelines import cache

NUM_IMAGES = 240
NUM_KILLS = 4


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_cluster_that_loses_node_after_node(tmp_path):
    seed = random.randrange(10**6)
    print(f"\ncluster: seed {seed}", flush=True)
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="vg", dir="/tmp"))
    out = folder / "c.zarr"  # one file system here; the short form has an object store
    cluster = Cluster(folder)
    try:
        cluster.start("head", "head", 0)
        cluster.wait_healthy("head")
        names = [f"node{number}" for number in range(2 + NUM_KILLS)]
        for name in names[:2]:
            cluster.start(name, "worker", 1)
            cluster.wait_healthy(name)
        job = cluster.submit(
            "cache", "--dataset", "digits", "--method", "wsearch", "--views", "3", "--out", str(out),
            "--limit", str(NUM_IMAGES), "--shard-images", "8", "--workers", "2", "--ray-address", "auto",
        )  # fmt: skip
        for number in range(NUM_KILLS):
            time.sleep(chance.uniform(5, 40))
            if job.poll() is not None:
                break
            victim = chance.choice([name for name in cluster.nodes if name != "head"])
            print(f"killing {victim}", flush=True)
            cluster.kill(victim)
            cluster.start(names[2 + number], "worker", 1)
        log, _ = job.communicate(timeout=1800)
        assert job.returncode == 0, log
        assert verify_cache(str(out)).ok
        cache(
            "digits", method="wsearch", views=3, out=str(tmp_path / "local.zarr"), limit=NUM_IMAGES,
            shard_images=8, executor="local", quiet=True,
        )  # fmt: skip
        remote, local = CacheReader(str(out)), CacheReader(str(tmp_path / "local.zarr"))
        assert np.array_equal(remote.rows, local.rows)
        # threads and machines round differently in the last bit: one grey level
        difference = np.abs(remote.views(remote.rows).astype(int) - local.views(local.rows))
        assert difference.max() <= 1
    finally:
        cluster.close()
