"""What the run of a large cache leaves out: reading all that is finished, a whole log in every worker."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from viewgen.errors import CorruptDataError, StorageError
from viewgen.store import CacheReader, LocalStorage, compact_commits, verify_cache
from viewgen_pipelines.cache import cache
from viewgen_pipelines.shards.worker import ShardWorker

pytestmark = pytest.mark.usefixtures("no_flushing")


@pytest.fixture
def make(tmp_path, capsys):
    """Return a function that makes a cache of copies, and returns what it said."""

    def run():
        result = cache(
            "digits", method="original", limit=12, views=1, shard_images=4, executor="local",
            out=str(tmp_path / "c.zarr"),
        )  # fmt: skip
        assert result.complete
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("most", [0, 2**30])
def test_beyond_a_size_a_resumed_run_compares_sizes_alone(make, tmp_path, monkeypatch, capsys, most):
    make()
    url = str(tmp_path / "c.zarr")
    (tmp_path / "c.zarr/views/c.0.0.0.0.0").unlink()
    flipped = tmp_path / "c.zarr/views/c.1.0.0.0.0"
    data = bytearray(flipped.read_bytes())
    data[9] ^= 1
    flipped.write_bytes(data)
    monkeypatch.setattr("viewgen_pipelines.shards.driver._MOST_READ_AGAIN", most)
    if most:
        said = make()
        assert "checking 3 finished shards" in said
        assert "sizes alone" not in said
    else:
        # what is gone is made again; a flipped bit is left to readers, here that of the contact sheet
        with pytest.raises(CorruptDataError, match=r"c\.1\.0.*viewgen verify"):
            make()
        said = capsys.readouterr().err
        assert "sizes alone of 0.0 GB; `viewgen verify` reads their contents" in said
    faults = [(fault.shard, fault.kind) for fault in verify_cache(url).faults]
    assert faults == ([] if most else [(1, "digest")])


@pytest.mark.usefixtures("blocks_of_two")
def test_a_worker_opens_the_blocks_of_its_rows(tmp_path, make_spec, write_cache, monkeypatch):
    storage, spec = LocalStorage(tmp_path / "i.zarr"), make_spec(num_images=37, shard_images=8)
    write_cache(storage, spec)  # 5 shards: blocks {0, 1}, {2, 3}, {4}
    compact_commits(storage, spec)
    opened = []

    broken = [{2}]

    def reader(*arguments, blocks):
        if blocks in broken:
            broken.clear()
            raise StorageError("503")
        opened.append({*blocks})
        return CacheReader(*arguments, blocks=blocks)

    monkeypatch.setattr("viewgen_pipelines.shards.worker.CacheReader", reader)
    worker = ShardWorker.__new__(ShardWorker)
    worker.job = SimpleNamespace(inversions_url=storage.url, storage_options={})
    worker._inversions, worker._open_blocks = None, set()
    everything = CacheReader(storage.url)
    for rows in (range(0, 8), range(8, 16), range(12, 20), range(32, 37), range(0, 37)):
        with contextlib.suppress(StorageError):
            worker._open_inversions(np.asarray(rows))
        worker._open_inversions(np.asarray(rows))  # the next shard of a block that could not be opened
        usable, failures = worker._usable_rows(np.asarray(rows))
        assert usable.tolist() == [row for row in rows if row in everything.rows]
        assert failures.keys() == {*rows} - {*usable.tolist()}
    # the second is open, the third lies across two blocks, the last takes all
    assert opened == [{0}, {0, 1}, {2}, {0, 1, 2}]
