"""Views of a cache as a data set of Ray Data."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from viewgen.errors import UsageError
from viewgen.extras import need
from viewgen.status import Status
from viewgen.store import CacheReader, Storage, open_storage

if TYPE_CHECKING:
    import ray.data

__all__ = ["read_views"]

ARRAYS = ("views", "label", "source_index", "distance")


def read_views(
    url: str,
    *,
    arrays: Sequence[str] = ARRAYS,
    columns: Sequence[str] = (),
    use_unconverged: bool = False,
    storage_options: dict[str, Any] | None = None,
    **options: Any,
) -> "ray.data.Dataset":
    """Return the views of a cache as a data set of Ray Data, one block a shard, read where it is used.

    Args:
        url: URL of the cache, which every node must reach.
        arrays: arrays of the cache: ``"views"``, ``"label"``, ``"distance"``, a column of the method …
        columns: scores of every view that `viewgen measure --write-columns` has written.
        use_unconverged: True for the images whose search did not converge too.
        storage_options: options of the cache's fsspec file system.
        options: further arguments of `ray.data.Dataset.map_batches`, such as ``memory``.

    Returns:
        a row an image: ``row``, the arrays, the columns.

    Raises:
        MissingExtraError: Ray is not installed.
        MissingFileError: there is no cache at the URL, or no scores in it.
        UsageError: no such array or score, or the cache has no committed shard.
    """
    need("ray")
    import ray.data

    statuses = (int(Status.OK), int(Status.NOT_CONVERGED)) if use_unconverged else (int(Status.OK),)
    reader = CacheReader(url, storage_options, statuses=statuses)
    if unknown := [name for name in arrays if name not in reader.spec.array_layout()]:
        raise UsageError(f"no array {unknown[0]!r}; the cache has {list(reader.spec.array_layout())}")
    storage = open_storage(url, storage_options)
    _scores(reader, storage, columns)
    if (local := storage.local_path("zarr.json")) is not None:
        url = str(local.parent)  # workers run in other folders
    # a shard without a readable row would be a block without columns
    shards = [i for i in reader.committed if np.isin(_rows(reader, i), reader.rows).any()]
    if not shards:
        raise UsageError(f"{reader.url} has no readable rows; make its views with `viewgen cache`")
    ids = ray.data.from_items([{"shard": shard_id} for shard_id in shards], override_num_blocks=len(shards))
    return ids.map_batches(
        read_shard,
        batch_size=1,
        fn_kwargs={
            "url": url,
            "arrays": tuple(arrays),
            "columns": tuple(columns),
            "statuses": statuses,
            "storage_options": storage_options,
        },
        **options,
    )


def read_shard(
    batch: dict[str, Any],
    *,
    url: str,
    arrays: Sequence[str],
    columns: Sequence[str],
    statuses: Collection[int],
    storage_options: dict[str, Any] | None,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the readable rows of the shard ``batch["shard"]``; arguments as for `read_views`."""
    (shard_id,) = batch["shard"]
    key = (url, tuple(statuses), tuple(columns))
    reader, scores = _opened(key, _Options(storage_options))
    contents = reader.shard(int(shard_id), arrays)
    return contents | {name: values[contents["row"]] for name, values in scores.items()}


class _Options:
    """Storage options that a cache of function results takes as they are: equal for equal contents."""

    def __init__(self, values: dict[str, Any] | None) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and self.values == other.values

    def __hash__(self) -> int:
        return hash(repr(self.values))


@lru_cache(maxsize=4)
def _opened(
    key: tuple[str, tuple[int, ...], tuple[str, ...]], options: _Options
) -> tuple[CacheReader, dict[str, np.ndarray[Any, Any]]]:
    """Return the cache and its scores, opened once in a worker process."""
    url, statuses, columns = key
    reader = CacheReader(url, options.values, statuses=statuses)
    return reader, _scores(reader, open_storage(url, options.values), columns)


def _scores(reader: CacheReader, storage: Storage, columns: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the scores of the views by name, `(N, V)`."""
    if not columns:
        return {}
    from viewgen.views.scores import score_values  # takes torch, which takes seconds

    return {name: score_values(reader, name, storage) for name in columns}


def _rows(reader: CacheReader, shard_id: int) -> np.ndarray[Any, Any]:
    rows = reader.spec.shard_rows(shard_id)
    return np.arange(rows.start, rows.stop)
