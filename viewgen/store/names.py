"""Names of the objects that a cache's commit log and its attempts write."""

import re

from viewgen.store.spec import CacheSpec

__all__ = [
    "ATTEMPT",
    "attempt_path",
    "block_of",
    "block_of_path",
    "block_path",
    "block_shards",
    "place_of_record",
    "place_of_void",
    "record_path",
    "void_path",
]

ATTEMPT = re.compile(r"\.\d{1,9}-[0-9a-f]{12}")
"""End of the name of an object that is not at its plain Zarr name: generation, token of the attempt."""

# Shards whose records make one object of a compacted log.
_BLOCK_SHARDS = 1000
_RECORD = re.compile(r"commits/(\d{8,18})(?:-([1-9]\d{0,8}))?\.json")
_VOID = re.compile(r"commits/(\d{8,18})-([1-9]\d{0,8})\.void")
_BLOCK = re.compile(r"commits/compacted-(\d{8,18})\.jsonl")
_ATTEMPT_PATH = re.compile(r"([a-z0-9_]+/c\.(\d{1,18})(?:\.0)*)\.\d{1,9}-[0-9a-f]{12}")


def record_path(shard_id: int, generation: int = 0) -> str:
    """Path of a shard's own record."""
    return f"commits/{shard_id:08d}{f'-{generation}' if generation else ''}.json"


def place_of_record(path: str) -> tuple[int, int] | None:
    """Return shard and generation of the shard's own record at `path`; None for any other path."""
    match = _RECORD.fullmatch(path)
    return (int(match[1]), int(match[2] or 0)) if match else None


def void_path(shard_id: int, generation: int) -> str:
    """Path of the mark by which a shard's records of earlier generations do not count."""
    return f"commits/{shard_id:08d}-{generation}.void"


def place_of_void(path: str) -> tuple[int, int] | None:
    """Return shard and generation of the mark at `path`; None for any other path."""
    match = _VOID.fullmatch(path)
    return (int(match[1]), int(match[2])) if match else None


def block_of(shard_id: int) -> int:
    """Return the number of the shard's block."""
    return shard_id // _BLOCK_SHARDS


def block_shards(spec: CacheSpec, block: int) -> range:
    """Return the shards of a block."""
    return range(block * _BLOCK_SHARDS, min((block + 1) * _BLOCK_SHARDS, spec.num_shards))


def block_path(block: int) -> str:
    """Path of the object of a block's compacted records."""
    return f"commits/compacted-{block:08d}.jsonl"


def block_of_path(path: str) -> int | None:
    """Return the number of the block at `path`; None for any other path."""
    match = _BLOCK.fullmatch(path)
    return int(match[1]) if match else None


def attempt_path(path: str) -> tuple[str, int] | None:
    """Return plain Zarr name and shard of an object with an attempt's own name; None for any other path."""
    match = _ATTEMPT_PATH.fullmatch(path)
    return (match[1], int(match[2])) if match else None
