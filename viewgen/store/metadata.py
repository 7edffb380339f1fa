"""The metadata documents of a cache, ``zarr.json``: written and read by zarr-python, which defines them.

Versions of zarr-python order the keys differently and omit different defaults, so documents are compared by
meaning. The only part defined by viewgen is the group's attribute ``viewgen``.
"""

import hashlib
import json
from functools import cache
from typing import Any

from viewgen.documents import parse_json
from viewgen.errors import CorruptDataError
from viewgen.store.spec import FORMAT_VERSION, ArrayLayout, CacheSpec, canonical_json

__all__ = ["array_metadata", "group_attribute", "group_metadata", "metadata_problem"]

# of an array's document; zarr-python passes over a codec's key that it does not know
_KEYS = {
    *("zarr_format", "node_type", "shape", "data_type", "fill_value", "attributes", "dimension_names"),
    *("chunk_grid", "chunk_shape", "chunk_key_encoding", "separator", "codecs", "storage_transformers"),
    *("name", "configuration", "must_understand", "endian", "index_codecs", "index_location"),
}


def group_attribute(spec: CacheSpec) -> dict[str, Any]:
    """Return the group's attribute ``viewgen``: the specification with its identity and digest."""
    document = spec.to_json()
    return {
        "format_version": FORMAT_VERSION,
        "identity": spec.identity,
        "digest": hashlib.sha256(canonical_json(document)).hexdigest(),
        "spec": document,
    }


def group_metadata(spec: CacheSpec) -> bytes:
    """Return the group's ``zarr.json``."""
    import zarr
    from zarr.storage import MemoryStore

    written: dict[str, Any] = {}
    zarr.create_group(MemoryStore(written), attributes={"viewgen": group_attribute(spec)})
    return bytes(written["zarr.json"].to_bytes())


@cache
def array_metadata(layout: ArrayLayout) -> bytes:
    """Return an array's ``zarr.json``."""
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    whole = (layout.shard_rows, *layout.row_shape)
    sharded = layout.chunk_rows is not None
    written: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(written),
        shape=layout.shape,
        dtype=layout.dtype,
        chunks=(layout.chunk_rows, *layout.row_shape) if sharded else whole,
        shards=whole if sharded else None,
        filters=None,
        serializer=BytesCodec(endian="little" if layout.dtype.itemsize > 1 else None),
        compressors=[Crc32cCodec()],
        fill_value=layout.fill,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=layout.axes,
        attributes={},
    )
    return bytes(written["zarr.json"].to_bytes())


def metadata_problem(layout: ArrayLayout, document: bytes) -> str | None:
    """Return the fault of an array's ``zarr.json``, or None if it agrees with the layout."""
    if document == array_metadata(layout):
        return None
    try:
        parse_json(document, "it")
        found = _understood(document)
    except CorruptDataError as error:
        return str(error)
    except Exception as error:  # a damaged document takes the parser to any of them
        return f"zarr cannot read it: {type(error).__name__}: {error}"
    if found != _understood(array_metadata(layout)):
        return "differs from what the cache's specification asks for"
    if unknown := sorted(_keys(json.loads(document)) - _KEYS):
        return f"holds {unknown[0]!r}, which is no key of Zarr's"
    return None


def _keys(document: Any) -> set[str]:
    """Return all keys of a document, without those of its attributes."""
    if isinstance(document, list):
        return set().union(*map(_keys, document))
    if not isinstance(document, dict):
        return set()
    inner = (_keys(value) for key, value in document.items() if key != "attributes")
    return set(document).union(*inner)


def _understood(document: bytes) -> bytes:
    """Return an array's ``zarr.json`` after reading and writing by zarr-python."""
    import zarr
    from zarr.buffer import default_buffer_prototype
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    stored = {"zarr.json": Buffer.from_bytes(document)}
    metadata = zarr.open_array(MemoryStore(stored), mode="r", zarr_format=3).metadata
    return bytes(metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes())
