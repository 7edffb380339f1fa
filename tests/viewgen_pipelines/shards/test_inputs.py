"""Weights and images for workers on other machines: by digest, once per node, never inside a job."""

import hashlib
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

import viewgen_pipelines.shards.inputs
from viewgen.datasets import load_dataset
from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.networks.weights import find_models
from viewgen.store import CacheReader, LocalStorage, open_storage, read_spec, verify_cache
from viewgen_pipelines.cache import cache
from viewgen_pipelines.executors.local import LocalExecutor
from viewgen_pipelines.executors.session import package_environment
from viewgen_pipelines.shards.inputs import Inputs, download, fetch, fetch_dataset, publish, withdraw

WEIGHTS = b"weights" * 1000
DIGEST = "sha256:" + hashlib.sha256(WEIGHTS).hexdigest()


class CountingStorage(LocalStorage):
    """Appends a line to a file for every object that is read."""

    def read(self, path: str) -> bytes:
        with open(self.root / "reads", "a") as log:
            log.write(f"{path}\n")
        return super().read(path)


@pytest.fixture
def node(tmp_path, monkeypatch) -> Path:
    """The data root of this machine."""
    monkeypatch.setenv("VIEWGEN_DATA", str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.fixture
def published(tmp_path, node, monkeypatch) -> tuple[CountingStorage, Inputs]:
    monkeypatch.setattr(viewgen_pipelines.shards.inputs, "PART_BYTES", 10 * 3 * 32 * 32)
    (tmp_path / "generator.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "cache").mkdir()
    storage = CountingStorage(tmp_path / "cache")
    inputs = publish(
        storage, load_dataset("digits"), 33, {"generator": str(tmp_path / "generator.safetensors")}
    )
    return storage, inputs


def test_what_is_published_is_named_by_its_digest_and_withdrawn(published):
    storage, inputs = published
    assert inputs.networks == {"generator": DIGEST}
    assert (len(inputs.parts), inputs.part_images) == (4, 10)
    names = {path.rpartition("/")[2] for path in storage.paths("run/inputs")}
    digests = (DIGEST, inputs.labels, *inputs.parts)
    assert names == {digest.removeprefix("sha256:") for digest in digests}
    for digest in digests:
        data = storage.read(f"run/inputs/{digest.removeprefix('sha256:')}")
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    withdraw(storage)
    assert storage.paths("run/inputs") == []


def test_a_node_reads_the_parts_it_needs_and_no_others(published, make_spec):
    storage, inputs = published
    spec = make_spec(height=32, width=32, num_images=33)
    dataset = fetch_dataset(storage, spec, inputs)
    rows = np.array([9, 8, 31, 10, 9])
    digits = load_dataset("digits")
    assert np.array_equal(dataset.images(rows), digits.images(rows))
    assert np.array_equal(dataset.labels(np.arange(33)), digits.labels(np.arange(33)))
    assert dataset.digest == spec.dataset["digest"]
    assert dataset.images(np.arange(0)).shape == (0, 3, 32, 32)
    reads = (storage.root / "reads").read_text().split()
    expected = [inputs.labels, inputs.parts[0], inputs.parts[1], inputs.parts[3]]
    assert sorted(reads) == sorted(f"run/inputs/{digest.removeprefix('sha256:')}" for digest in expected)


def fetch_once_all_wait(storage, start):
    start.wait()
    assert fetch(storage, DIGEST).read_bytes() == WEIGHTS


def test_workers_of_a_node_download_a_file_once(published):
    storage, _ = published
    context = multiprocessing.get_context("fork")
    start = context.Event()
    workers = [context.Process(target=fetch_once_all_wait, args=(storage, start)) for _ in range(4)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len((storage.root / "reads").read_text().split()) == 1


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_refused(published, node):
    storage, _ = published
    path = fetch(storage, DIGEST)
    assert path.is_relative_to(node)
    path.write_bytes(WEIGHTS[:-1] + b"!")
    assert fetch(storage, DIGEST).read_bytes() == WEIGHTS
    path.unlink()
    storage.write(f"run/inputs/{DIGEST.removeprefix('sha256:')}", b"something else")
    with pytest.raises(CorruptDataError, match="expected " + DIGEST):
        fetch(storage, DIGEST)
    assert not path.exists()


def test_weights_at_a_url(published, tmp_path):
    url = (tmp_path / "generator.safetensors").as_uri()
    assert download(url).read_bytes() == WEIGHTS
    assert download(f"{url}#{DIGEST}").read_bytes() == WEIGHTS
    (tmp_path / "generator.safetensors").unlink()
    assert download(f"{url}#{DIGEST}").read_bytes() == WEIGHTS, "the copy that is there has the digest"
    with pytest.raises(MissingFileError):
        download(url)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        download(f"{url}#main")
    (tmp_path / "generator.safetensors").write_bytes(b"other")
    with pytest.raises(CorruptDataError):
        download(f"{url}#sha256:{'0' * 64}")


class FarAwayExecutor(LocalExecutor):
    """Its worker gets the job as bytes, and may touch none of the driver's files."""

    elsewhere = True

    def pool(self, start, numbers, check):
        sent = pickle.dumps(start)
        FarAwayExecutor.sent.append(sent)
        yield from super().pool(pickle.loads(sent), numbers, check)


def test_a_job_for_other_machines_holds_digests_only(tmp_path, node, monkeypatch, no_flushing):
    """The cache equals the one made from the driver's own files."""
    FarAwayExecutor.sent = []
    options = {"method": "invert", "limit": 6, "shard_images": 4, "max_steps": 2, "quiet": True}
    options |= {"executor": "local"}
    cache("digits", out=str(tmp_path / "near.zarr"), **options)
    monkeypatch.setattr("viewgen_pipelines.executors.LocalExecutor", FarAwayExecutor)
    weights = tmp_path / "models"
    weights.mkdir()
    for kind, path in find_models("digits", ["generator", "inverter", "encoder", "discriminator"]).items():
        (weights / f"{kind}.safetensors").write_bytes(path.read_bytes())
    cache("digits", out=str(tmp_path / "far.zarr"), models=weights.as_uri(), **options)
    near, far = (CacheReader(str(tmp_path / name)) for name in ("near.zarr", "far.zarr"))
    assert np.array_equal(near.views(near.rows), far.views(far.rows))
    assert np.array_equal(near.labels, far.labels)
    assert verify_cache(str(tmp_path / "far.zarr")).ok
    assert open_storage(str(tmp_path / "far.zarr")).paths("run/inputs") == []
    (sent,) = FarAwayExecutor.sent
    (job,) = pickle.loads(sent).args
    assert len(sent) < 20_000
    assert (job.data_root, job.model_paths) == (None, {})
    assert str(weights).encode() not in sent
    spec = read_spec(open_storage(str(tmp_path / "far.zarr")))
    assert dict(job.inputs.networks) == spec.models


def test_the_runtime_environment_ships_code_without_weights(tmp_path):
    environment = package_environment()
    names = {Path(folder).name for folder in environment["py_modules"]}
    assert names == {"viewgen", "viewgen_pipelines", "viewgen_pretrained", "viewgen_train"}
    from ray._private.runtime_env.packaging import create_package

    for folder in environment["py_modules"]:
        target = tmp_path / f"{Path(folder).name}.zip"
        create_package(folder, target, False, excludes=environment["excludes"])
        assert target.stat().st_size < 2.5 * 2**20  # weights would add 19 MB
