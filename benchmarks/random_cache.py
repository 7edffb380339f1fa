"""A cache of random images and views, for benchmarks that read one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.store import CacheSpec, LocalStorage, ShardCommit, commit_shard, create_cache, write_shard

__all__ = ["write_random_cache"]


def write_random_cache(
    folder: Path,
    num_images: int,
    *,
    image_size: int = 32,
    num_views: int = 8,
    shard_images: int = 512,
    given: Mapping[str, NDArray[Any]] | None = None,
) -> CacheSpec:
    """Write the cache and return its specification; row and source index are the same.

    Args:
        folder: folder of the cache.
        num_images: N.
        image_size: height and width.
        num_views: V.
        shard_images: images of a shard.
        given: name → contents `(N, ...)` of arrays that are not to be random.
    """
    spec = CacheSpec(
        dataset={"name": "random", "split": "train"},
        method="random",
        config={},
        models={},
        seed=0,
        num_images=num_images,
        num_views=num_views,
        height=image_size,
        width=image_size,
        shard_images=shard_images,
    )
    storage = LocalStorage(folder)
    create_cache(storage, spec)
    random = np.random.default_rng(0)
    for shard_id in range(spec.num_shards):
        rows = spec.shard_rows(shard_id)
        arrays = {
            name: random.integers(0, 128, (len(rows), *layout.row_shape), np.uint8).astype(layout.dtype)
            for name, layout in spec.array_layout().items()
        }
        arrays["status"][:] = 1
        arrays["source_index"][:] = rows
        arrays |= {name: values[rows.start : rows.stop] for name, values in (given or {}).items()}
        objects = write_shard(storage, spec, shard_id, arrays)
        commit_shard(
            storage,
            ShardCommit(shard_id=shard_id, identity=spec.identity, objects=objects, status=arrays["status"]),
        )
    return spec
