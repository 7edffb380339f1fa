"""Copies of caches and of folders of weights between storages, checked on the way."""

import contextlib
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.store import ShardCommit, Storage, commit_shard, create_cache, list_commits, read_spec
from viewgen.store.names import place_of_void
from viewgen.store.quality import QUALITY_FOLDER
from viewgen.store.storage import ObjectExistsError

__all__ = ["WEIGHT_SUFFIXES", "committed_paths", "copy_cache", "copy_files", "weight_files"]

WEIGHT_SUFFIXES = (".safetensors", ".json", ".md", ".csv")


def copy_cache(source: Storage, target: Storage, tell: Callable[[int], object] = lambda done: None) -> int:
    """Copy the committed shards of a cache that the target lacks.

    Each object is compared with the digest in its commit record. A shard is committed in the target after its
    objects are there: an interrupted copy is a cache that lacks shards, and goes on shard by shard.

    Args:
        source: storage of the cache.
        target: storage of the copy; empty, or an earlier copy.
        tell: callback with the number of shards that are there.

    Returns:
        number of shards that were copied.

    Raises:
        CorruptDataError: an object differs from its record.
        CacheMismatchError: the target holds another cache.
        StorageError: the target holds something else, or cannot be written.
    """
    spec = read_spec(source)
    commits = list_commits(source, spec)
    create_cache(target, spec)
    for path in source.paths("commits"):
        if place_of_void(path) is not None and not target.exists(path):
            target.write(path, source.read(path))
    there = list_commits(target, spec)
    for done, (shard_id, commit) in enumerate(commits.items(), start=1):
        if shard_id not in there:
            copy = partial(_copy_object, source, target, commit)
            list(target.map_parallel(copy, commit.objects))
            # another copy of the same shard may have been there first
            with contextlib.suppress(ObjectExistsError):
                commit_shard(target, commit)
        tell(done)
    for path in source.paths(QUALITY_FOLDER):
        target.write(path, source.read(path))
    return len(commits.keys() - there.keys())


def _copy_object(source: Storage, target: Storage, commit: ShardCommit, path: str) -> None:
    recorded = commit.objects[path]
    try:
        data = source.read(path)
    except MissingFileError as error:
        raise CorruptDataError(f"{source.url}/{path} is missing; repair the cache first: {_HOW}") from error
    if hashlib.sha256(data).hexdigest() != recorded["sha256"]:
        raise CorruptDataError(
            f"{source.url}/{path} differs from what was committed (sha256); repair the cache first: {_HOW}"
        )
    target.write(path, data)


_HOW = "`viewgen verify --repair` and the same `viewgen cache` command make the shard anew"


def committed_paths(source: Storage) -> list[str]:
    """Return the paths of all that belongs to a cache now, in the order in which a copy should have them."""
    spec = read_spec(source)
    commits = list_commits(source, spec)
    documents = ["zarr.json", *(f"{name}/zarr.json" for name in spec.array_layout())]
    objects = [path for commit in commits.values() for path in commit.objects]
    return [*documents, *objects, *source.paths(QUALITY_FOLDER), *source.paths("commits")]


def weight_files(source: Storage) -> list[str]:
    """Return the files of a folder of weights: networks, their cards, tables.

    Raises:
        MissingFileError: there are no networks in it.
    """
    names = [name for name in source.paths() if "/" not in name and name.endswith(WEIGHT_SUFFIXES)]
    if not any(name.endswith(".safetensors") for name in names):
        raise MissingFileError(
            f"{source.url} is neither a cache (it has no zarr.json) nor a folder of weights (it has no "
            ".safetensors files); give the URL of a cache, or the folder of a `viewgen export` or "
            "`viewgen pretrain`"
        )
    return names


def copy_files(
    source: Storage,
    target: Storage,
    names: list[str],
    *,
    overwrite: bool,
    also: dict[str, bytes] | None = None,
) -> int:
    """Copy files that the target lacks.

    Args:
        source, target: the folders.
        names: names of the files.
        overwrite: True to replace files with other contents.
        also: further files, name → contents.

    Returns:
        number of files that were written.

    Raises:
        UsageError: the target has a file of that name with other contents.
    """
    contents: dict[str, Any] = dict.fromkeys(names) | (also or {})
    changed = []
    for name, data in contents.items():
        data = source.read(name) if data is None else data
        contents[name] = data
        if target.size(name) is None:
            changed.append(name)
        elif target.read(name) != data:
            if not overwrite:
                raise UsageError(
                    f"{target.url} has another {name} already; give another destination, or --overwrite"
                )
            changed.append(name)
    # cards before the networks they describe: whoever finds a network finds its card
    for name in sorted(changed, key=lambda name: name.endswith(".safetensors")):
        target.write(name, contents[name])
    return len(changed)
