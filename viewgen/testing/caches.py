"""Small caches with random contents, for tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.store import CacheSpec, ShardCommit, Storage, commit_shard, create_cache, write_shard

__all__ = ["Arrays", "random_shard", "small_spec", "write_cache_of", "write_random_cache"]

Arrays = dict[str, NDArray[Any]]


def small_spec(**changes: Any) -> CacheSpec:
    """Return a specification with 21 rows in shards of 8, so that the last shard is partial."""
    keys: dict[str, Any] = {
        "dataset": {"name": "digits", "split": "train", "digest": "sha256:00"},
        "method": "wsearch",
        "config": {"epsilon_boundary": 0.3, "optimiser": {"lr": 0.01}},
        "models": {"generator": "sha256:11"},
        "seed": 7,
        "num_images": 21,
        "num_views": 2,
        "height": 4,
        "width": 4,
        "shard_images": 8,
    }
    return CacheSpec(**(keys | changes))


def random_shard(spec: CacheSpec, shard_id: int, seed: int = 0) -> Arrays:
    """Return random contents of one shard, all rows ok."""
    generator = np.random.default_rng([seed, shard_id])
    rows = spec.shard_rows(shard_id)
    arrays: Arrays = {}
    for name, layout in spec.array_layout().items():
        values = generator.integers(0, 256, (len(rows), *layout.row_shape))
        arrays[name] = (values / 128 if layout.dtype.kind == "f" else values).astype(layout.dtype)
    arrays["source_index"] = np.arange(rows.start, rows.stop)
    arrays["status"] = np.ones(len(rows), np.uint8)
    return arrays


def write_random_cache(
    storage: Storage, spec: CacheSpec, seed: int = 0, status: Any = None, label: Any = None
) -> Arrays:
    """Write a complete cache and return its contents, `(N, …)` per array.

    Args:
        storage: empty storage.
        spec: specification of the cache.
        seed: seed of the contents.
        status: status codes of the rows, `(N,)`; all ok by default.
        label: labels of the rows, `(N, ...)`; random by default.
    """
    create_cache(storage, spec)
    shards = []
    for shard_id in range(spec.num_shards):
        arrays = random_shard(spec, shard_id, seed)
        rows = spec.shard_rows(shard_id)
        if label is not None:
            arrays["label"] = np.asarray(label, np.int64)[rows.start : rows.stop]
        if status is not None:
            arrays["status"] = np.asarray(status, np.uint8)[rows.start : rows.stop]
        objects = write_shard(storage, spec, shard_id, arrays)
        commit = ShardCommit(
            shard_id=shard_id,
            identity=spec.identity,
            objects=objects,
            status=arrays["status"].tobytes(),
            failures={row: "poisoned" for row, code in zip(rows, arrays["status"], strict=True) if code == 3},
            run_id="run-a",
            seconds=2.0,
            stats={"mean_pairwise": 0.4},
        )
        commit_shard(storage, commit)
        shards.append(arrays)
    return {name: np.concatenate([arrays[name] for arrays in shards]) for name in spec.array_layout()}


def write_cache_of(storage: Storage, spec: CacheSpec, arrays: Arrays) -> None:
    """Write a complete cache whose rows are all ok, with given arrays `(N, …)` and random others."""
    create_cache(storage, spec)
    for shard_id in range(spec.num_shards):
        rows = spec.shard_rows(shard_id)
        shard = random_shard(spec, shard_id)
        for name, values in arrays.items():
            shard[name][:] = values[rows.start : rows.stop]
        objects = write_shard(storage, spec, shard_id, shard)
        commit = ShardCommit(
            shard_id=shard_id,
            identity=spec.identity,
            objects=objects,
            status=shard["status"].tobytes(),
            run_id="run-a",
        )
        commit_shard(storage, commit)
