"""Creation, resumption and replacement of a cache; another configuration is refused."""

import json
import warnings
from typing import Any

from viewgen.documents import parse_json
from viewgen.errors import CacheMismatchError, CorruptDataError, MissingFileError, StorageError
from viewgen.store.metadata import array_metadata, group_attribute, group_metadata, metadata_problem
from viewgen.store.quality import QUALITY_FOLDER
from viewgen.store.spec import FORMAT_VERSION, CacheSpec, identity_of
from viewgen.store.storage import ObjectExistsError, Storage
from viewgen.terminal import shortened

__all__ = ["RUN_FOLDER", "create_cache", "read_spec"]

RUN_FOLDER = "run"
"""Folder inside a cache for the executors' own files: attempt markers, the lease (``run/lease*``)."""

_GROUP = "zarr.json"
_LONGEST_DIFF = 12
_SHARED_AT_RISK = (
    "{url} replaces an object where it is asked to create one only if there is none: let one command at a "
    "time write this cache. Two at once, or one that was stopped and goes on later, can mix their results, "
    "which `viewgen verify` finds. An object store with conditional writes prevents it, or a file system "
    "with hard links"
)


def create_cache(storage: Storage, spec: CacheSpec, *, overwrite: bool = False) -> None:
    """Create the cache, or prepare its resumption if it exists with the same identity.

    The group's ``zarr.json`` is written first and create-only, which decides the ownership of the URL. The
    arrays' documents follow from it and are written again where they are missing, so a kill at any point does
    no harm.

    Args:
        storage: storage of the cache.
        spec: specification of the cache.
        overwrite: delete an existing cache of any identity.

    Raises:
        CacheMismatchError: a cache with another identity exists.
        StorageError: the URL holds something other than a viewgen cache, or cannot be written.
        CorruptDataError: the cache's ``zarr.json`` is damaged.
    """
    existing = _existing_spec(storage, overwrite)
    if existing is not None and overwrite:
        _clear(storage, existing)
        storage.write(_GROUP, group_metadata(spec))
    elif existing is None:
        if not storage.refuses_existing():
            warnings.warn(_SHARED_AT_RISK.format(url=storage.url), stacklevel=2)
        try:
            storage.write_new(_GROUP, group_metadata(spec))
        except ObjectExistsError:
            existing = read_spec(storage)
    if existing is not None and existing.identity != spec.identity and not overwrite:
        raise CacheMismatchError(_mismatch(storage.url, existing, spec))
    storage.remove_leftovers()
    for layout in spec.array_layout().values():
        path = f"{layout.name}/zarr.json"
        try:
            sound = metadata_problem(layout, storage.read(path)) is None
        except MissingFileError:
            sound = False
        if not sound:
            storage.write(path, array_metadata(layout))


def read_spec(storage: Storage) -> CacheSpec:
    """Return the specification of the cache.

    Raises:
        MissingFileError: the URL is empty.
        StorageError: the URL holds something other than a viewgen cache, or a cache of a newer format.
        CorruptDataError: its ``zarr.json`` is damaged.
    """
    try:
        data = storage.read(_GROUP)
    except MissingFileError as error:
        raise MissingFileError(
            f"no cache at {storage.url} (it has no {_GROUP}); check the URL, or make it with `viewgen cache`"
        ) from error
    try:
        document = parse_json(data, "it", finite=True)
        if (document["zarr_format"], document["node_type"]) != (3, "group"):
            raise ValueError("it does not describe a group of Zarr format 3")
        entry = document["attributes"].get("viewgen")
        if entry is None:
            if storage.paths("commits"):
                raise ValueError("it has commit records, but its attribute 'viewgen' is gone")
            raise StorageError(f"{storage.url} is a Zarr group, but no viewgen cache")
        version = entry["format_version"]
        if version != FORMAT_VERSION and entry["identity"] == identity_of(entry["spec"], version):
            raise StorageError(
                f"{storage.url} has cache format {version!r}, this viewgen reads {FORMAT_VERSION}; "
                "read it with the version that wrote it"
            )
        spec = CacheSpec.from_json(entry["spec"])
        if entry != group_attribute(spec):
            raise ValueError("the specification and its digest differ")
    except (KeyError, AttributeError, TypeError, CorruptDataError, ValueError) as error:
        raise CorruptDataError(f"{storage.url}/{_GROUP} is damaged: {error}") from error
    return spec


def _existing_spec(storage: Storage, overwrite: bool) -> CacheSpec | None:
    """Return the specification of the existing cache, None if the URL is free."""
    names = set(storage.entries()) - {RUN_FOLDER}
    if not names:
        return None
    if _GROUP not in names:
        raise StorageError(
            f"{storage.url} is not empty and no viewgen cache (it holds {', '.join(sorted(names)[:3])}"
            f"{', …' if len(names) > 3 else ''}); choose another --out"
        )
    try:
        return read_spec(storage)
    except CorruptDataError as error:
        if overwrite:
            raise StorageError(f"{error}; it will not be deleted unread, remove it by hand") from error
        raise


def _clear(storage: Storage, spec: CacheSpec) -> None:
    """Delete a cache's contents, records first; ``zarr.json`` stays, so that the cache stays recognisable."""
    storage.delete_tree("commits")
    storage.delete_tree(QUALITY_FOLDER)
    for name in storage.paths(RUN_FOLDER):
        if not name.startswith(f"{RUN_FOLDER}/lease"):
            storage.delete(name)
    for name in spec.array_layout():
        storage.delete_tree(name)


def _mismatch(url: str, existing: CacheSpec, spec: CacheSpec) -> str:
    old, new = _flat(existing.to_json()), _flat(spec.to_json())
    keys = [
        key for key in sorted(old | new) if old.get(key) != new.get(key) and not key.startswith("versions.")
    ]
    lines = [
        f"  {key}: the cache has {shortened(old.get(key, 'nothing'))}, this command asks for "
        f"{shortened(new.get(key, 'nothing'))}"
        for key in keys
    ]
    if len(lines) > _LONGEST_DIFF:
        lines[_LONGEST_DIFF:] = [f"  … and {len(lines) - _LONGEST_DIFF} more"]
    return "\n".join(
        [
            f"the cache at {url} was made with another configuration:",
            *lines,
            "use --overwrite to replace it, or another --out to keep both",
        ]
    )


def _flat(document: Any, prefix: str = "") -> dict[str, str]:
    """Return dotted key → JSON text of every leaf."""
    if isinstance(document, dict) and document:
        leaves: dict[str, str] = {}
        for key, value in document.items():
            leaves |= _flat(value, f"{prefix}.{key}" if prefix else key)
        return leaves
    return {prefix: json.dumps(document, ensure_ascii=False)}
