"""Search and validation of the cache that supplies a training's views."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from viewgen.datasets import ImageDataset
from viewgen.datasets.registry import canonical_name
from viewgen.errors import (
    CacheMismatchError,
    CorruptDataError,
    IncompleteError,
    MissingFileError,
    StorageError,
    UsageError,
)
from viewgen.status import Status
from viewgen.store import (
    CacheReader,
    CacheSpec,
    cache_folder,
    cache_folders,
    open_storage,
    pending_shards,
    read_spec,
)
from viewgen.terminal import program
from viewgen.views import VIEWS

__all__ = [
    "FoundCache",
    "check_cache",
    "find_cache",
    "no_cache",
    "num_unconverged",
    "recorded_name",
    "usable_rows",
]

log = logging.getLogger(__name__)
INVERSIONS = "invert"
SHOWN_LABELS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundCache:
    """A cache found in the cache folder.

    Attributes:
        url: URL of the cache.
        spec: specification of the cache.
        pending: number of missing shards.
        changed: time of the last commit, in seconds; 0 if the storage reports no times.
    """

    url: str
    spec: CacheSpec
    pending: int
    changed: float


def find_cache(
    dataset: str | None,
    split: str,
    *,
    inversions: bool = False,
    storage_options: dict[str, Any] | None = None,
    folder: str | None = None,
) -> FoundCache | None:
    """Return the most recently changed complete cache, or None.

    Args:
        dataset: name of the data set; by default any.
        split: split of the data set.
        inversions: True to look for inversions instead of views.
        storage_options: options of the fsspec file system, if the folder is a URL.
        folder: folder or URL of the caches; by default `cache_folders`.

    Raises:
        IncompleteError: only an unfinished cache exists.
        UsageError: there are several caches and the storage reports no times.
    """
    folders = [folder] if folder else cache_folders()
    found = [
        cache
        for place in folders
        for cache in _caches(place, storage_options)
        if (cache.spec.method == INVERSIONS) == inversions
        and cache.spec.dataset.get("split") == split
        and dataset in (None, cache.spec.dataset.get("name"))
    ]
    complete = [cache for cache in found if not cache.pending]
    if not complete and found:
        cache = max(found, key=lambda cache: cache.changed)
        raise IncompleteError(_incomplete(cache.url, cache.spec, cache.pending))
    if len(complete) > 1 and not any(cache.changed for cache in complete):
        urls = "\n  ".join(cache.url for cache in complete)
        raise UsageError(f"{folders[0]} holds several complete caches; name one with --cache:\n  {urls}")
    return max(complete, key=lambda cache: cache.changed, default=None)


def _caches(folder: str, storage_options: dict[str, Any] | None) -> list[FoundCache]:
    if "://" not in folder and not Path(folder).expanduser().is_dir():
        return []
    found = []
    named = folder not in cache_folders()[1:]
    for name in _entries(folder, storage_options):
        if not name.endswith(".zarr"):
            continue
        url = f"{folder}/{name}"
        storage = open_storage(url, storage_options)
        try:
            spec = read_spec(storage)
            pending = len(pending_shards(storage, spec))
        except (CacheMismatchError, CorruptDataError, MissingFileError):
            continue  # a cache being begun, or a damaged one: not one to train on
        except StorageError as error:
            if named and isinstance(error.__cause__, OSError):
                raise  # unreadable is not absent
            continue  # another format
        found.append(FoundCache(url=url, spec=spec, pending=pending, changed=_changed(url)))
    return found


def _entries(folder: str, storage_options: dict[str, Any] | None) -> list[str]:
    """Return the names in a folder; none for a folder of the working directory that cannot be read."""
    try:
        return list(open_storage(folder, storage_options).entries())
    except StorageError:
        if folder == cache_folder():
            raise
        return []


def _changed(url: str) -> float:
    if "://" in url:
        return 0.0
    root = Path(url).expanduser()
    return max(path.stat().st_mtime for path in (root / "commits", root / "zarr.json") if path.exists())


def _incomplete(url: str, spec: CacheSpec, pending: int) -> str:
    dataset = shlex.quote(str(spec.dataset.get("name")))
    return (
        f"the cache at {url} is not complete: {pending} of {spec.num_shards} shards are missing; run its "
        f"`viewgen cache --dataset {dataset} --method {spec.method} …` command again, which goes on from "
        "there"
    )


def recorded_name(dataset: str | None, split: str, data_root: str | None) -> str | None:
    """Return a data set's name as caches record it; None for any data set."""
    return None if dataset is None else canonical_name(dataset, split, data_root=data_root)


def usable_rows(use_unconverged: bool) -> tuple[Status, ...]:
    """Return the status codes of rows whose views a training uses."""
    return (Status.OK, Status.NOT_CONVERGED) if use_unconverged else (Status.OK,)


def num_unconverged(reader: CacheReader) -> int:
    """Return the number of images whose search did not converge."""
    return int((reader.status == Status.NOT_CONVERGED).sum())


def check_cache(reader: CacheReader, dataset: ImageDataset, *, inversions: bool = False) -> None:
    """Raise an error if a cache does not match the data set.

    Args:
        reader: reader of the cache.
        dataset: training data set.
        inversions: True if the cache must hold inversions.

    Raises:
        CacheMismatchError: the cache belongs to another data set, split or image size.
        IncompleteError: shards are missing.
        CorruptDataError: the order of labels differs, or an array holds values that are not finite.
    """
    spec = reader.spec
    side = dataset.image_size
    if spec.method in VIEWS and VIEWS.entry(spec.method).view_size is not None:
        method = VIEWS.read({"name": spec.method, "settings": spec.config})
        side = method.entry.side(method.settings, side)
    if inversions != (spec.method == INVERSIONS) and inversions:
        raise CacheMismatchError(
            f"{reader.url} holds {spec.method} views, where inversions are needed; make them with\n"
            f"  viewgen cache --dataset {shlex.quote(dataset.name)} --method {INVERSIONS}"
        )
    pairs = {
        "data set": (spec.dataset.get("name"), dataset.name),
        "split": (spec.dataset.get("split"), dataset.split),
        "content": (spec.dataset.get("digest"), dataset.digest),
        "image size": ((spec.height, spec.width), (side, side)),
    }
    # one folder under two names is one data set: its content decides
    same_content = pairs["content"][0] == pairs["content"][1]
    different = [
        f"  {name}: the cache has {there}, the training {here}"
        for name, (there, here) in pairs.items()
        if there != here and not (same_content and name == "data set")
    ]
    if different:
        raise CacheMismatchError(
            f"the cache at {reader.url} does not fit the training:\n"
            + "\n".join(different)
            + "\ngive the cache that was made of it, or make one with\n"
            f"  viewgen cache --dataset {shlex.quote(dataset.name)} --split {dataset.split} --method wsearch"
        )
    pending = spec.num_shards - len(reader.committed)
    if pending:
        raise IncompleteError(_incomplete(reader.url, spec, pending))
    late = num_unconverged(reader)
    if not len(reader):
        raise IncompleteError(
            f"the cache at {reader.url} has no view to train on: "
            + (
                f"{late} of its images did not converge; --use-unconverged uses them"
                if late
                else "all failed"
            )
        )
    _check_labels(reader, dataset)
    _check_finite(reader)
    lacking = spec.num_images - len(reader)
    if lacking and spec.roles:
        raise IncompleteError(
            f"{lacking} of {spec.num_images} images have no views of the roles "
            f"{', '.join(role.name for role in spec.roles)} in {reader.url}, which no expert view can "
            "replace; make a cache in which every image has them"
        )
    used = bool(np.isin(reader.rows, np.flatnonzero(reader.status == Status.NOT_CONVERGED)).any())
    if late:
        fate = (
            "their views are used"
            if used
            else "an expert view takes the place of theirs (--use-unconverged uses them)"
        )
        log.info("%d of %d images did not converge: %s", late, spec.num_images, fate)
    without = spec.num_images - len(reader) - (0 if used else late)
    if without:
        log.info(
            "%d of %d images have no view in the cache: an expert view takes its place",
            *(without, spec.num_images),
        )


def _check_labels(reader: CacheReader, dataset: ImageDataset) -> None:
    rows = reader.rows
    wrong = np.flatnonzero(reader.source_index != rows)
    if not len(wrong):
        there, here = reader.labels, dataset.labels(rows)
        unequal = (there != here).reshape(len(rows), -1).any(axis=1)
        # caches of earlier versions hold no real-valued targets
        if (reals := reader.real_targets) is not None:
            unequal |= (reals != dataset.reals(rows)).any(axis=1)
        wrong = np.flatnonzero(unequal)
    if len(wrong):
        shown = ", ".join(str(row) for row in rows[wrong[:SHOWN_LABELS]])
        raise CorruptDataError(
            f"{reader.url}: {len(wrong)} rows ({shown} …) carry another image's index or label than "
            f"{dataset.name} {dataset.split} has there; check it with "
            f"`viewgen verify {shlex.quote(reader.url)}`"
        )


def _check_finite(reader: CacheReader) -> None:
    """Raise an error if measured distances are not finite: such a view contradicts its status."""
    method = VIEWS.entry(reader.spec.method) if reader.spec.method in VIEWS else None
    if reader.spec.method == INVERSIONS:
        name = "inversion_error"
    elif method is not None and "encoder" in method.needs:
        name = "distance"
    else:  # a method that measures no distance
        return
    values = reader.array(name)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise CorruptDataError(
            f"{reader.url}: {name} is not finite in {len(bad)} rows, the first of them "
            f"{int(reader.rows[bad[0]])}; check the cache with "
            f"`viewgen verify {shlex.quote(reader.url)}`, and make it again with --overwrite"
        )


def no_cache(dataset: str | None, split: str, *, inversions: bool = False) -> MissingFileError:
    """Return an error whose message gives the command that makes the missing cache."""
    method = INVERSIONS if inversions else "wsearch"
    kind, option = ("inversions", "--inversions") if inversions else ("views", "--cache")
    places = " nor in the working directory and its folders" if len(cache_folders()) > 1 else ""
    return MissingFileError(
        f"no cache of {kind} of {dataset or 'any data set'} ({split}) in {cache_folder()}{places}; make one "
        "with\n"
        f"  {program()} cache --dataset {shlex.quote(dataset or 'D')} --method {method}\n"
        f"or name one with {option} URL"
    )
