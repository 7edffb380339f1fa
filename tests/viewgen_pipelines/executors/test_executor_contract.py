"""What every executor promises, and what a cache run promises on each: the local one and Ray."""

import hashlib
import uuid

import numpy as np
import pytest
from expected_cache import assert_every_image_once

from viewgen.errors import CacheMismatchError, LeaseError, StorageError, ViewgenError
from viewgen.store import CacheReader, list_commits, open_storage, read_spec
from viewgen_pipelines.cache import cache
from viewgen_pipelines.executors import LocalExecutor, open_executor
from viewgen_pipelines.shards.lease import Lease
from viewgen_pipelines.testing import ExecutorContract

# Ray's own code warns; ours must not, and the local half of the contract holds it to that.
ray_warnings = pytest.mark.filterwarnings("ignore")


class CacheRuns:
    """Runs of `viewgen cache`. Subclasses provide `name` and the fixture `set_faults`.

    What the driver does before and after an executor's work is tested on the local one only.
    """

    name = ""
    num_images = 70

    @pytest.fixture
    def make(self, tmp_path, set_faults, no_flushing):
        """Return a function that runs `cache` on small shards of digits (16 images, the last one partial)."""

        def run(**changes):
            options = {
                "method": "faulty",
                "views": 2,
                "limit": self.num_images,
                "shard_images": 16,
                "out": str(tmp_path / "c.zarr"),
                "executor": self.name,
                "workers": 1,
                "quiet": True,
            }
            return cache("digits", **(options | changes))

        return run

    @pytest.fixture
    def prepare(self, make):
        """Return `make` in this process: for what a test finds there, or what it only reads off later."""
        return lambda **changes: make(executor="local", **changes)

    @pytest.fixture
    def url(self, tmp_path):
        return str(tmp_path / "c.zarr")

    def test_every_image_once_with_its_views_and_label(self, make, url):
        result = make(workers=None, seed=5, sigma=0.125)
        assert_every_image_once(url, num_images=self.num_images, seed=5)
        assert result.complete
        assert (result.num_images, result.num_views) == (self.num_images, 2)
        assert (result.converged_share, result.mean_pairwise) == (1.0, 0.5)
        assert result.views_per_second > 0
        storage = open_storage(url)
        spec = read_spec(storage)
        assert spec.config == {"sigma": 0.125}
        assert spec.dataset["images"] == {"first": self.num_images}
        assert spec.versions["viewgen"]
        assert set(CacheReader(url).distance.ravel().tolist()) == {0.125}
        assert storage.paths("run/lease") == []

        again = make(workers=None, seed=5, sigma=0.125)
        assert again.complete
        assert again.views_per_second is None, "nothing was left to do"

    def test_bad_samples_are_named_and_the_rest_is_made(self, make, url, set_faults):
        set_faults(**{"raise": [3, 20, 21]}, failed=[40], late=[41])
        result = make()
        assert [item["row"] for item in result.quarantined] == [3, 20, 21, 40]
        assert result.quarantined[0] == {"shard": 0, "row": 3, "reason": "ValueError: bad samples [3]"}
        assert_every_image_once(url, num_images=self.num_images, missing=(3, 20, 21, 40))
        reader = CacheReader(url)
        assert np.flatnonzero(reader.status == 2).tolist() == [41]
        assert result.converged_share == pytest.approx(65 / 70)
        set_faults()
        assert make().quarantined == result.quarantined, "a committed sample is not tried again"

    def test_a_shard_that_fails_as_a_whole_is_given_up_and_tried_again_on_request(
        self, make, prepare, url, set_faults
    ):
        set_faults(**{"raise": list(range(16, 32))})
        result = make(max_attempts=2)
        assert [(item["shard"], item["rows"]) for item in result.quarantined] == [(1, [16, 31])]
        assert "raised in attempt 2" in result.quarantined[0]["reason"]
        assert_every_image_once(url, num_images=self.num_images, missing=tuple(range(16, 32)))
        set_faults()
        assert not make(max_attempts=2).complete
        assert prepare(max_attempts=3).complete
        assert_every_image_once(url, num_images=self.num_images)

    def test_a_method_that_fails_everywhere_ends_the_run(self, make, set_faults):
        set_faults(**{"raise": list(range(self.num_images))})
        with pytest.raises(ViewgenError, match=r"the fault is not theirs.*bad samples"):
            make()

    def test_a_method_that_cannot_be_built_ends_the_run_and_blames_no_shard(
        self, make, prepare, url, set_faults
    ):
        set_faults(build="no such kernel")
        with pytest.raises(ViewgenError, match="a worker could not start: RuntimeError: no such kernel"):
            make(max_attempts=1)
        set_faults()
        assert prepare(max_attempts=1).complete

    def test_another_configuration_is_refused_with_the_difference(self, make, prepare, url):
        prepare(limit=16)
        for change, name in [
            ({"seed": 1}, "seed"),
            ({"sigma": 0.5}, "config.sigma"),
            ({"views": 3}, "num_views"),
            ({"limit": 15}, "num_images"),
            ({"shard_images": 8}, "shard_images"),
        ]:
            with pytest.raises(CacheMismatchError, match=f"{name}: the cache has"):
                make(**({"limit": 16} | change))
        assert_every_image_once(url, num_images=16)

    def test_a_second_driver_is_refused(self, make, prepare, url):
        prepare(limit=16)
        with Lease(open_storage(url)) as lease:
            for changes in ({}, {"seed": 3, "overwrite": True}):
                with pytest.raises(LeaseError, match=f"being written by run {lease.run_id}"):
                    make(limit=16, **changes)
        assert make(limit=16).complete
        assert_every_image_once(url, num_images=16)

    def test_s3(self, make, s3_url, s3_options):
        make(out=s3_url, storage_options=s3_options, limit=40)
        assert_every_image_once(s3_url, num_images=40, storage_options=s3_options)
        assert make(out=s3_url, storage_options=s3_options, limit=40).complete


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return LocalExecutor()


@ray_warnings
class TestRayExecutor(ExecutorContract):
    @pytest.fixture(scope="class")
    def executor(self, shared_ray_of_class):
        with open_executor("ray", max_workers=1, workers=1) as opened:
            yield opened


class TestLocal(CacheRuns):
    name = "local"

    @pytest.fixture
    def set_faults(self, faults):
        return faults

    def test_damaged_files_are_made_again(self, make, prepare, url, tmp_path):
        prepare()
        before = list_commits(open_storage(url), read_spec(open_storage(url)))
        views = tmp_path / "c.zarr/views"
        (views / "c.0.0.0.0.0").write_bytes(b"short")
        flipped = bytearray((views / "c.2.0.0.0.0").read_bytes())
        flipped[1000] ^= 1
        (views / "c.2.0.0.0.0").write_bytes(flipped)
        (tmp_path / "c.zarr/label/c.3").unlink()
        (tmp_path / "c.zarr/commits/00000004.json").write_bytes(b'{"torn')
        result = make()
        assert result.complete
        assert_every_image_once(url, num_images=self.num_images)
        after = list_commits(open_storage(url), read_spec(open_storage(url)))
        again = [shard for shard in before if after[shard].run_id != before[shard].run_id]
        assert again == [0, 2, 3, 4]
        # the same bytes, those of the shards that were made again under names of their own
        digests = [
            {shard: {entry["sha256"] for entry in commit.objects.values()} for shard, commit in log.items()}
            for log in (before, after)
        ]
        assert digests[0] == digests[1]
        assert [shard for shard, commit in after.items() if commit.generation] == again
        assert hashlib.sha256((views / "c.2.0.0.0.0").read_bytes()).hexdigest() in digests[1][2]

    def test_overwrite_replaces_another_configuration(self, make, prepare, url):
        prepare(limit=20, seed=1)
        make(limit=16, seed=2, overwrite=True)
        assert_every_image_once(url, num_images=16, seed=2)

    def test_overwrite_deletes_nothing_but_caches(self, make, tmp_path):
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
        (folder / "me.png").touch()
        with pytest.raises(StorageError, match="no viewgen cache"):
            make(out=str(folder), overwrite=True)
        assert sorted(path.name for path in folder.iterdir()) == ["me.png", "zarr.json"]

    def test_the_records_of_a_large_cache_are_put_together_once_it_is_finished(
        self, make, url, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("viewgen_pipelines.shards.log_keeper._COMPACT_FROM", 2)
        make(limit=40)
        records = sorted(path.name for path in (tmp_path / "c.zarr/commits").iterdir())
        assert records == ["compacted-00000000.jsonl"]
        assert make(limit=40).complete
        assert_every_image_once(url, num_images=40)

    def test_one_image_at_a_file_url(self, make, tmp_path):
        make(limit=1, out=f"file://{tmp_path}/f.zarr")
        assert_every_image_once(f"file://{tmp_path}/f.zarr", num_images=1)

    def test_memory(self, make):
        url = f"memory://{uuid.uuid4().hex}/c.zarr"
        make(out=url)
        assert_every_image_once(url, num_images=self.num_images)
        open_storage(url).delete_tree("")

    @pytest.mark.usefixtures("blocks_of_two")
    def test_runs_take_up_a_log_that_was_put_together(self, make, url, tmp_path, set_faults, monkeypatch):
        monkeypatch.setattr("viewgen_pipelines.shards.log_keeper._COMPACT_FROM", 2)
        set_faults(**{"raise": list(range(16, 32))})
        assert [item["shard"] for item in make(max_attempts=1).quarantined] == [1]
        blocks = [f"compacted-{block:08d}.jsonl" for block in range(3)]
        names = ["00000000.json", *blocks[1:]]
        assert sorted(path.name for path in (tmp_path / "c.zarr/commits").iterdir()) == names
        (tmp_path / "c.zarr/views/c.3.0.0.0.0").write_bytes(b"short")
        set_faults()
        assert make(max_attempts=2).complete
        names = ["00000003-1.json", "00000003-1.void", *blocks]
        assert sorted(path.name for path in (tmp_path / "c.zarr/commits").iterdir()) == names
        assert_every_image_once(url, num_images=self.num_images)


@ray_warnings
class TestRay(CacheRuns):
    """The same under Ray, where every run starts processes: what took longest is in the long campaign."""

    name = "ray"

    @pytest.fixture
    def set_faults(self, ray_faults):
        return ray_faults

    @pytest.mark.chaos
    @pytest.mark.xdist_group("ray")
    def test_a_shard_that_fails_as_a_whole_is_given_up_and_tried_again_on_request(
        self, make, prepare, url, set_faults
    ):
        super().test_a_shard_that_fails_as_a_whole_is_given_up_and_tried_again_on_request(
            make, prepare, url, set_faults
        )

    @pytest.mark.chaos
    @pytest.mark.xdist_group("ray")
    def test_a_method_that_cannot_be_built_ends_the_run_and_blames_no_shard(
        self, make, prepare, url, set_faults
    ):
        super().test_a_method_that_cannot_be_built_ends_the_run_and_blames_no_shard(
            make, prepare, url, set_faults
        )

    @pytest.mark.chaos
    @pytest.mark.xdist_group("ray")
    def test_s3(self, make, s3_url, s3_options):
        super().test_s3(make, s3_url, s3_options)
