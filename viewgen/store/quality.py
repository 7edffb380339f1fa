"""What was measured of a finished cache, kept beside its arrays: a report, and scores of its views.

Shards and their records never change, so these lie in a folder of their own, ``quality/``, with the identity
of the cache for which they hold. Readers of views ignore it.
"""

import hashlib
import json
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, MissingFileError
from viewgen.store.spec import CacheSpec, canonical_json
from viewgen.store.storage import Storage

__all__ = ["QUALITY_FOLDER", "SCORES_DOCUMENT", "read_report", "read_scores", "write_report", "write_scores"]

QUALITY_FOLDER = "quality"
FORMAT = 1

_REPORT = f"{QUALITY_FOLDER}/report.json"
_SCORES = f"{QUALITY_FOLDER}/scores"
SCORES_DOCUMENT = f"{_SCORES}/zarr.json"
"""The document of the scores' group, which changes with the scores."""

_Array = np.ndarray[Any, Any]


def write_report(storage: Storage, spec: CacheSpec, report: dict[str, Any]) -> None:
    """Write a report, a JSON object, in the place of an earlier one."""
    document = {"format": FORMAT, "identity": spec.identity, "report": report}
    storage.write(_REPORT, canonical_json(document) + b"\n")


def read_report(storage: Storage, spec: CacheSpec) -> dict[str, Any] | None:
    """Return the report of a cache; None if there is none, or one of another configuration or format."""
    try:
        document = json.loads(storage.read(_REPORT))
        if (document["format"], document["identity"]) == (FORMAT, spec.identity):
            report: dict[str, Any] = document["report"]
            return report
    except (MissingFileError, ValueError, KeyError, TypeError):
        pass
    return None


def write_scores(storage: Storage, spec: CacheSpec, scores: dict[str, _Array]) -> None:
    """Write scores of all views, a Zarr group with one float32 array `(N, V)` each; NaN where unknown."""
    import zarr
    from zarr.storage import MemoryStore

    written: dict[str, Any] = {}
    store = MemoryStore(written)
    group = zarr.create_group(store)
    for name, values in scores.items():
        array = group.create_array(
            name,
            shape=(spec.num_images, spec.num_views),
            chunks=(spec.num_images, spec.num_views),
            dtype="<f4",
            fill_value=np.nan,
            compressors=None,
            dimension_names=("image", "view"),
        )
        array[...] = values
    objects = {path: bytes(data.to_bytes()) for path, data in written.items() if path != "zarr.json"}
    digest = hashlib.sha256()
    for path in sorted(objects):
        digest.update(f"{path} {len(objects[path])}\n".encode() + objects[path])
    attributes = {"format": FORMAT, "identity": spec.identity, "sha256": digest.hexdigest()}
    group.update_attributes({"viewgen": attributes})
    objects["zarr.json"] = bytes(written["zarr.json"].to_bytes())
    storage.delete_tree(_SCORES)
    # the group's document last: readers see no scores before all are there
    for path, data in objects.items():
        storage.write(f"{_SCORES}/{path}", data)


def read_scores(storage: Storage, spec: CacheSpec) -> dict[str, _Array]:
    """Return name → scores `(N, V)`, float32; empty if there are none, or those of another configuration.

    Raises:
        CorruptDataError: they cannot be read.
    """
    import zarr
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    try:
        document = json.loads(storage.read(SCORES_DOCUMENT))
    except MissingFileError:
        return {}
    except ValueError as error:
        raise CorruptDataError(f"{storage.url}/{SCORES_DOCUMENT} is damaged: {error}") from error
    try:
        kept = document["attributes"]["viewgen"]
        if (kept["format"], kept["identity"]) != (FORMAT, spec.identity):
            return {}
        prefix = f"{_SCORES}/"
        stored: Any = {
            path.removeprefix(prefix): Buffer.from_bytes(storage.read(path))
            for path in storage.paths(_SCORES)
        }
        group = zarr.open_group(MemoryStore(stored), mode="r")
        found = {name: np.asarray(array[...], np.float32) for name, array in group.arrays()}
    except Exception as error:  # a damaged document takes zarr to any of them
        raise CorruptDataError(
            f"{storage.url}/{_SCORES} cannot be read ({type(error).__name__}: {error}); write it again with "
            f"`viewgen measure {storage.url} --write-columns`"
        ) from error
    shape = (spec.num_images, spec.num_views)
    if wrong := [name for name, values in found.items() if values.shape != shape]:
        raise CorruptDataError(f"{storage.url}/{_SCORES}/{wrong[0]} has another shape than {shape}")
    return found
