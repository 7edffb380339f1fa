"""What was measured of a finished cache, kept beside its arrays: a report, and scores of its views.

Shards and their records never change, so these lie in a folder of their own, ``quality/``, with the identity
of the cache for which they hold. Readers of views ignore it.
"""

import hashlib
import re
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from viewgen.documents import Document, checked, parse_json
from viewgen.errors import CorruptDataError, MissingFileError, UsageError
from viewgen.store.bounds import Text
from viewgen.store.spec import CacheSpec, canonical_json
from viewgen.store.storage import Storage

__all__ = ["QUALITY_FOLDER", "SCORES_DOCUMENT", "read_report", "read_scores", "write_report", "write_scores"]

QUALITY_FOLDER = "quality"
FORMAT = 1

_REPORT = f"{QUALITY_FOLDER}/report.json"
_SCORES = f"{QUALITY_FOLDER}/scores"
SCORES_DOCUMENT = f"{_SCORES}/zarr.json"
"""The document of the scores' group, which changes with the scores."""
# bytes of an array's document at most
_LARGEST = 1 << 20

_Array = np.ndarray[Any, Any]


# with the messages of errors in it
_Sentence = Annotated[str, Field(max_length=20_000)]


class _Measure(Document):
    # readers pass them on as arguments
    model_config = ConfigDict(extra="forbid")
    diagnostic: Text
    seed: int
    name: Text
    value: float | None
    low: float | None = None
    high: float | None = None
    on: Text = ""
    group: Text = ""


class _Report(Document):
    measures: list[_Measure] = Field(max_length=1000)
    verdict: list[_Sentence] = Field(max_length=100)
    notes: list[_Sentence] = Field(max_length=100)


def write_report(storage: Storage, spec: CacheSpec, report: dict[str, Any]) -> None:
    """Write a report, a JSON object, in the place of an earlier one."""
    document = {"format": FORMAT, "identity": spec.identity, "report": report}
    storage.write(_REPORT, canonical_json(document) + b"\n")


def read_report(storage: Storage, spec: CacheSpec) -> dict[str, Any] | None:
    """Return the report of a cache; None if there is none, or one of another configuration or format."""
    try:
        document = parse_json(storage.read(_REPORT), f"{storage.url}/{_REPORT}")
        if (document["format"], document["identity"]) == (FORMAT, spec.identity):
            return checked(_Report, document["report"])
    except (MissingFileError, CorruptDataError, UsageError, KeyError, TypeError):
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
    attributes = {"format": FORMAT, "identity": spec.identity, "sha256": _digest(objects)}
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
    place, shape = f"{storage.url}/{_SCORES}", (spec.num_images, spec.num_views)
    try:
        document = parse_json(storage.read(SCORES_DOCUMENT), f"{storage.url}/{SCORES_DOCUMENT}")
    except MissingFileError:
        return {}
    try:
        kept = document["attributes"]["viewgen"]
        if (kept["format"], kept["identity"]) != (FORMAT, spec.identity):
            return {}
        # an array's document and its chunk; what else lies there was not written by viewgen
        paths = [
            path.removeprefix(f"{_SCORES}/")
            for path in storage.paths(_SCORES)
            if re.fullmatch(rf"{_SCORES}/[^/]+/(zarr\.json|c/0/0)", path)
        ]
        objects = {
            path: storage.read_document(
                f"{_SCORES}/{path}", 4 * shape[0] * shape[1] if path.endswith("/c/0/0") else _LARGEST
            )
            for path in paths
        }
        if _digest(objects) != kept["sha256"]:
            raise CorruptDataError("they are not those that were written")
        names = [path.removesuffix("/zarr.json") for path in paths if path.endswith("/zarr.json")]
        return {name: _values(objects, name, shape) for name in names}
    except (CorruptDataError, MissingFileError, KeyError, TypeError) as error:
        raise CorruptDataError(
            f"{place} cannot be read ({type(error).__name__}: {error}); write it again with "
            f"`viewgen measure {storage.url} --write-columns`"
        ) from error


def _digest(objects: dict[str, bytes]) -> str:
    """Return the digest of the objects below the group's document, by their paths."""
    digest = hashlib.sha256()
    for path in sorted(objects):
        digest.update(f"{path} {len(objects[path])}\n".encode() + objects[path])
    return digest.hexdigest()


def _values(objects: dict[str, bytes], name: str, shape: tuple[int, int]) -> _Array:
    """Return the values of an array of `write_scores`, which has no other form: one chunk, as it is."""
    document = parse_json(objects[f"{name}/zarr.json"], f"{name}/zarr.json")
    form = {
        "shape": [*shape],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*shape]}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    if wrong := [key for key, value in form.items() if document[key] != value]:
        raise CorruptDataError(f"{name}/zarr.json has another {wrong[0]} than viewgen writes")
    data = objects.get(f"{name}/c/0/0")
    if data is None:  # Zarr writes no chunk of NaN alone
        return np.full(shape, np.nan, np.float32)
    if len(data) != 4 * shape[0] * shape[1]:
        raise CorruptDataError(f"{name}/c/0/0 has {len(data)} bytes, expected {4 * shape[0] * shape[1]}")
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
