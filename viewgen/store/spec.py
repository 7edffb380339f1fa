"""What a cache is: its axes, its arrays, and the identity that decides whether work may be reused."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from viewgen.errors import CorruptDataError, UsageError

__all__ = [
    "FORMAT_VERSION",
    "OPTIONAL_ARRAYS",
    "STATUS_ABSENT",
    "STATUS_FAILED",
    "STATUS_NOT_CONVERGED",
    "STATUS_OK",
    "ArrayLayout",
    "CacheSpec",
    "canonical_json",
    "default_shard_images",
    "identity_of",
]

FORMAT_VERSION = 1
STATUS_ABSENT, STATUS_OK, STATUS_NOT_CONVERGED, STATUS_FAILED = range(4)
OPTIONAL_ARRAYS = ("w_plus", "anchor_w_plus")

# Of an inner chunk: small enough to read one row by itself, large enough to be worth a request.
_CHUNK_BYTES = 400_000


def canonical_json(document: Any) -> bytes:
    """Return the one JSON text of `document`: sorted keys, no spaces, no NaN. Digests are taken over it."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def identity_of(document: dict[str, Any], format_version: Any) -> str:
    """Return the identity of a specification given as JSON."""
    counted = {key: value for key, value in document.items() if key != "versions"}
    return (
        "sha256:" + hashlib.sha256(canonical_json(counted | {"format_version": format_version})).hexdigest()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLayout:
    """How one array lies in its shard objects.

    Attributes:
        name: the array's name in the group.
        shape: the whole array, first axis N (images).
        dtype: little-endian numpy type.
        axes: dimension names, as many as `shape` has entries.
        shard_rows: rows of one object.
        chunk_rows: rows of one inner chunk, a divisor of `shard_rows`; None if the object is one chunk.
        fill: value of rows that were never written, and of the padding behind the last row.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[str, ...]
    shard_rows: int
    chunk_rows: int | None
    fill: float

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one image's entry."""
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's entry."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    def object_path(self, shard_id: int) -> str:
        """Path of the object that holds shard `shard_id`."""
        return f"{self.name}/c." + ".".join([str(shard_id)] + ["0"] * len(self.row_shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSpec:
    """Everything that says what the views of a cache are.

    Attributes:
        dataset: name, split, digest, size and selection of the source images.
        method: registry name of the view method.
        config: the method's resolved configuration.
        models: role → sha256 digest of the network's weights.
        seed: root of the addressed randomness.
        num_images: N, rows of the cache.
        num_views: V, views per image.
        channels: C.
        height: H in pixels.
        width: W in pixels.
        shard_images: S, rows per shard.
        arrays: which optional arrays are kept, of `OPTIONAL_ARRAYS`.
        latent_shape: shape of one code, `(L, 512)` for W⁺, where an optional array needs it.
        label_shape: shape of one label, () for a class index.
        versions: of packages and hardware, for the record; not part of the identity.
    """

    dataset: dict[str, Any]
    method: str
    config: dict[str, Any]
    models: dict[str, str]
    seed: int
    num_images: int
    num_views: int
    height: int
    width: int
    shard_images: int
    channels: int = 3
    arrays: tuple[str, ...] = ()
    latent_shape: tuple[int, ...] | None = None
    label_shape: tuple[int, ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_images", "num_views", "channels", "height", "width", "shard_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if unknown := set(self.arrays) - set(OPTIONAL_ARRAYS):
            raise UsageError(f"unknown arrays {sorted(unknown)}; there are {list(OPTIONAL_ARRAYS)}")
        if self.arrays and self.latent_shape is None:
            raise UsageError(f"the arrays {list(self.arrays)} need latent_shape, the shape of a code")
        for name in ("dataset", "config", "models", "versions"):
            # a copy as JSON has it, so that a spec equals the one read back from its cache
            object.__setattr__(self, name, json.loads(canonical_json(getattr(self, name))))
        for name in ("arrays", "latent_shape", "label_shape"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    def to_json(self) -> dict[str, Any]:
        """Return the specification as a JSON object; `from_json` is its inverse."""
        document: dict[str, Any] = json.loads(canonical_json(asdict(self)))
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "CacheSpec":
        """Build a specification from `to_json`'s object; CorruptDataError if keys are missing or unknown."""
        try:
            return cls(**document)
        except (TypeError, UsageError) as error:
            expected = [f.name for f in fields(cls)]
            raise CorruptDataError(
                f"the cache's specification cannot be read: {error}; expected keys {expected}"
            ) from error

    @property
    def identity(self) -> str:
        """``sha256:…`` over everything but `versions`, and the format version."""
        return identity_of(self.to_json(), FORMAT_VERSION)

    @property
    def num_shards(self) -> int:
        """Number of shards; the last one may be partial."""
        return -(-self.num_images // self.shard_images)

    def shard_rows(self, shard_id: int) -> range:
        """Return the rows of shard `shard_id`."""
        if not 0 <= shard_id < self.num_shards:
            raise UsageError(f"shard {shard_id} is outside the cache's {self.num_shards} shards")
        first = shard_id * self.shard_images
        return range(first, min(first + self.shard_images, self.num_images))

    def array_layout(self) -> dict[str, ArrayLayout]:
        """Return name → layout of every array of the cache."""
        N, V = self.num_images, self.num_views
        image = (self.channels, self.height, self.width)
        nan = math.nan
        label_axes = tuple(f"attribute_{i}" for i in range(len(self.label_shape)))
        layouts = [
            self._layout("views", (N, V, *image), "<u1", ("image", "view", "channel", "y", "x"), 0, True),
            self._layout("source_index", (N,), "<i8", ("image",), -1),
            self._layout("label", (N, *self.label_shape), "<i8", ("image", *label_axes), -1),
            self._layout("distance", (N, V), "<f4", ("image", "view"), nan),
            self._layout("steps", (N,), "<i4", ("image",), -1),
            self._layout("inversion_error", (N,), "<f4", ("image",), nan),
            self._layout("status", (N,), "<u1", ("image",), STATUS_ABSENT),
        ]
        latent = self.latent_shape or ()
        own = ("layer", "latent") if len(latent) == 2 else tuple(f"code_{i}" for i in range(len(latent)))
        if "w_plus" in self.arrays:
            axes: tuple[str, ...] = ("image", "view", *own)
            layouts.append(self._layout("w_plus", (N, V, *latent), "<f4", axes, 0, True))
        if "anchor_w_plus" in self.arrays:
            axes = ("image", *own)
            layouts.append(self._layout("anchor_w_plus", (N, *latent), "<f4", axes, 0, True))
        return {layout.name: layout for layout in layouts}

    def _layout(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        axes: tuple[str, ...],
        fill: float,
        sharded: bool = False,
    ) -> ArrayLayout:
        S = self.shard_images
        row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
        chunk_rows = None
        if sharded:
            divisors = [rows for rows in range(1, S + 1) if S % rows == 0]
            chunk_rows = min(divisors, key=lambda rows: abs(math.log(rows * row_bytes / _CHUNK_BYTES)))
        return ArrayLayout(
            name=name,
            shape=shape,
            dtype=np.dtype(dtype),
            axes=axes,
            shard_rows=S,
            chunk_rows=chunk_rows,
            fill=fill,
        )


def default_shard_images(image_bytes: int, num_views: int) -> int:
    """Return S: the largest power of two up to 512 whose views stay below 50 MB, at least 1.

    Args:
        image_bytes: C·H·W of one view.
        num_views: V.
    """
    fitting = 50_000_000 // (image_bytes * num_views)
    return 1 << max(0, min(512, fitting).bit_length() - 1)
