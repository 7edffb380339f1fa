"""A cache on file with names of attempts and a withdrawn record: later versions read it, byte for byte.

python tests/viewgen/store/test_golden_cache.py FOLDER    # how it was written
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from viewgen.store import (
    CacheReader,
    LocalStorage,
    ShardCommit,
    commit_shard,
    compact_commits,
    create_cache,
    drop_commits,
    list_commits,
    pending_shards,
    verify_cache,
    write_plain_copies,
    write_shard,
)
from viewgen.testing.caches import random_shard, small_spec

GOLDEN = Path(__file__).parents[2] / "golden/attempts/cache.zarr"
SPEC = small_spec(arrays=("w_plus",), latent_shape=(2, 3))
# shard 1 was made a second time beside another attempt's objects, shard 2 after its record was withdrawn
SEEDS, GENERATIONS = (0, 1, 2), (0, 0, 1)


def write(folder: Path) -> None:
    """Write the cache."""
    storage = LocalStorage(folder)
    create_cache(storage, SPEC)

    def make(shard_id: int, seed: int, *, commit: bool = True) -> None:
        arrays = random_shard(SPEC, shard_id, seed)
        objects = write_shard(storage, SPEC, shard_id, arrays)
        if commit:
            record = ShardCommit(
                shard_id=shard_id,
                identity=SPEC.identity,
                objects=objects,
                status=arrays["status"],
                run_id=f"run {seed}",
            )
            commit_shard(storage, record)

    make(0, SEEDS[0])
    make(1, 7, commit=False)
    make(1, SEEDS[1])
    make(2, 7)
    drop_commits(storage, SPEC, [2])
    make(2, SEEDS[2])
    write_plain_copies(storage, SPEC, list_commits(storage, SPEC).values())


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "cache.zarr")


def check(folder: Path) -> None:
    reader = CacheReader(str(folder), check="digest")
    assert reader.spec == SPEC
    assert [commit.generation for commit in reader.commits.values()] == list(GENERATIONS)
    for shard_id, seed in enumerate(SEEDS):
        for name, expected in random_shard(SPEC, shard_id, seed).items():
            np.testing.assert_array_equal(reader.shard(shard_id, [name])[name], expected)
    report = verify_cache(str(folder))
    assert (report.ok, report.notes, report.superseded) == (True, [], [])


def test_it_is_read_and_verified(folder):
    check(folder)
    assert pending_shards(LocalStorage(folder), SPEC) == []


def test_plain_zarr_reads_the_same(folder):
    import zarr

    for name in SPEC.array_layout():
        expected = [random_shard(SPEC, shard_id, seed)[name] for shard_id, seed in enumerate(SEEDS)]
        found = zarr.open_array(str(folder / name), mode="r")[...]
        np.testing.assert_array_equal(found, np.concatenate(expected))


def test_it_is_compacted_and_resumed(folder, no_flushing):
    storage = LocalStorage(folder)
    create_cache(storage, SPEC)
    assert compact_commits(storage, SPEC) == 1
    assert storage.paths("commits") == ["commits/00000002-1.void", "commits/compacted-00000000.jsonl"]
    check(folder)


def test_it_is_still_written_like_this(folder, tmp_path, no_flushing):
    """Apart from the tokens in the names."""
    write(tmp_path / "new.zarr")
    check(tmp_path / "new.zarr")

    def names(root: Path) -> list[str]:
        paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        return sorted(path.split("-")[0] if "/c." in path else path for path in paths)

    assert names(tmp_path / "new.zarr") == names(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
