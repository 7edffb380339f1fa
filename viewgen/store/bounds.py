"""Bounds on what is read from a cache's documents, checked before anybody computes with it.

A specification or a commit record comes from a file that somebody else may have written. Numbers beyond the
bounds would make lists without end, arrays beyond the memory or sums that overflow, so they are refused with
the name of the field. Types are those of JSON, strictly: 1.0 and true are no counts.
"""

from typing import Annotated, Any

from pydantic import Field

from viewgen.documents import Document

__all__ = ["MOST_IMAGES", "MOST_ROW_BYTES", "MOST_SHARDS", "MOST_SHARD_IMAGES", "Record", "Specification"]

MOST_IMAGES = 10**9
MOST_SHARDS = 10**6
MOST_SHARD_IMAGES = 2**20
MOST_VIEWS = 2**16
MOST_SIDE = 2**16
MOST_ROW_BYTES = 2**31
"""Largest entry of one image in one array, in bytes."""

Text = Annotated[str, Field(max_length=1000)]
Size = Annotated[int, Field(ge=1, le=2**24)]
Shape = Annotated[list[Size], Field(max_length=8)]


class _Column(Document):
    name: Text
    per_view: bool = False
    codes: bool = False
    dtype: Text = "<f4"
    shape: Shape = Field(default_factory=list)


class _Role(Document):
    name: Text
    channels: list[Annotated[int, Field(ge=0, lt=MOST_SIDE)]] = Field(default_factory=list)
    signed: bool = False


class Specification(Document):
    """Types and bounds of `CacheSpec`'s JSON object."""

    dataset: dict[str, Any]
    method: Text
    config: dict[str, Any]
    models: dict[str, Text]
    seed: int
    num_images: int = Field(ge=1, le=MOST_IMAGES)
    num_views: int = Field(ge=1, le=MOST_VIEWS)
    channels: int = Field(3, ge=1, le=MOST_SIDE)
    height: int = Field(ge=1, le=MOST_SIDE)
    width: int = Field(ge=1, le=MOST_SIDE)
    shard_images: int = Field(ge=1, le=MOST_SHARD_IMAGES)
    arrays: list[Text] = Field([], max_length=100)
    columns: list[_Column] = Field([], max_length=100)
    roles: list[_Role] = Field([], max_length=MOST_VIEWS)
    latent_shape: Shape | None = None
    label_shape: Shape = Field(default_factory=list)
    versions: dict[str, Any] = Field(default_factory=dict)


class _Object(Document):
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    crc32c: str | None = Field(None, max_length=8 * MOST_SHARD_IMAGES)


class Record(Document):
    """Types and bounds of a commit record's JSON object, as far as this version knows its fields."""

    shard_id: int = Field(ge=0, lt=MOST_IMAGES)
    identity: Text
    objects: dict[Text, _Object] = Field(max_length=1000)
    status: str = Field(max_length=MOST_SHARD_IMAGES, pattern="^[0-3]*$")
    failures: dict[Annotated[str, Field(pattern="^[0-9]{1,10}$")], str] = Field(default_factory=dict)
    attempt: int = Field(1, ge=0, le=10**9)
    run_id: Text = ""
    seconds: float = Field(0.0, ge=0, le=1e12)
    stats: dict[str, Any] = Field(default_factory=dict)
