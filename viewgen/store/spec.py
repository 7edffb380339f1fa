"""The specification of a cache: its axes, its arrays, and the identity that permits reuse of work."""

import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from viewgen.documents import checked
from viewgen.errors import CorruptDataError, UsageError
from viewgen.roles import Role
from viewgen.status import Status
from viewgen.store.bounds import (
    MOST_IMAGES,
    MOST_ROW_BYTES,
    MOST_SHARD_IMAGES,
    MOST_SHARDS,
    Specification,
)
from viewgen.store.columns import NAMED_COLUMNS, Column

__all__ = [
    "FORMAT_VERSION",
    "ArrayLayout",
    "CacheSpec",
    "canonical_json",
    "default_shard_images",
    "identity_of",
]

FORMAT_VERSION = 1

# Of an inner chunk: small enough to read one row by itself, large enough to be worth a request.
_CHUNK_BYTES = 400_000


def canonical_json(document: Any) -> bytes:
    """Return the canonical JSON text of `document` for digests: sorted keys, no spaces, no NaN."""
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
    """Layout of one array in its shard objects.

    Attributes:
        name: name of the array in the group.
        shape: shape of the whole array, first axis N (images).
        dtype: little-endian numpy type.
        axes: dimension names, as many as `shape` has entries.
        shard_rows: rows per object.
        chunk_rows: rows per inner chunk, a divisor of `shard_rows`; None if the object is one chunk.
        fill: value of unwritten rows, and of the padding after the last row.
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
    """Specification of a cache: everything that determines its views.

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
        arrays: names of the columns that the format describes, `NAMED_COLUMNS`.
        columns: all columns, those of `arrays` first; either argument may be given.
        latent_shape: shape of one code, where a column holds codes; (L, D) for W⁺.
        label_shape: shape of one label, () for a class index.
        roles: roles of an image's views in their order; empty if views are interchangeable.
        versions: versions of packages and hardware, for the record; not part of the identity.
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
    columns: tuple[Column, ...] = ()
    latent_shape: tuple[int, ...] | None = None
    label_shape: tuple[int, ...] = ()
    roles: tuple[Role, ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_images", "num_views", "channels", "height", "width", "shard_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, it must be at least 1")
        self._settle_columns()
        self._check_bounds()
        for name in ("dataset", "config", "models", "versions"):
            # a copy as JSON has it, so that a spec equals the one read back from its cache
            object.__setattr__(self, name, json.loads(canonical_json(getattr(self, name))))
        for name in ("latent_shape", "label_shape"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        self._check_roles()

    def _check_roles(self) -> None:
        object.__setattr__(self, "roles", tuple(self.roles))
        if self.roles and len({role.name for role in self.roles}) != self.num_views:
            raise UsageError(
                f"{self.num_views} views of the roles {', '.join(role.name for role in self.roles)}; "
                "expected one view of each role"
            )
        for role in self.roles:
            role.num_channels(self.channels)

    def _check_bounds(self) -> None:
        """Refuse sizes that could not be worked with."""
        sizes = (
            ("num_images", self.num_images, MOST_IMAGES),
            ("shard_images", self.shard_images, MOST_SHARD_IMAGES),
            ("number of shards, num_images / shard_images,", self.num_shards, MOST_SHARDS),
        )
        for name, size, most in sizes:
            if size > most:
                raise UsageError(f"{name} is {size}, it must be at most {most}")
        images = (self.num_views, self.channels, self.height, self.width)
        codes = (self.num_views, *(self.latent_shape or ()))
        columns = [(self.num_views if column.per_view else 1, *column.shape) for column in self.columns]
        for shape in (images, codes, self.label_shape, *columns):
            if (size := math.prod(shape)) > MOST_ROW_BYTES:
                raise UsageError(
                    f"one image would have {size} numbers of shape {tuple(shape)}; it may have at most "
                    f"{MOST_ROW_BYTES}"
                )

    def _settle_columns(self) -> None:
        """Check the columns, and separate those that the format describes from the others."""
        if unknown := set(self.arrays) - set(NAMED_COLUMNS):
            raise UsageError(f"unknown arrays {sorted(unknown)}; there are {list(NAMED_COLUMNS)}")
        columns = {name: NAMED_COLUMNS[name] for name in self.arrays}
        for column in self.columns:
            if columns.setdefault(column.name, column) != column:
                raise UsageError(f"two columns are called {column.name!r}; choose another name for one")
        named = [name for name, column in columns.items() if NAMED_COLUMNS.get(name) == column]
        if strange := [name for name in columns if name in NAMED_COLUMNS and name not in named]:
            raise UsageError(
                f"column {strange[0]!r} is not the one of that name in the format; choose another name"
            )
        codes = [column.name for column in columns.values() if column.codes]
        if codes and not (self.latent_shape and min(self.latent_shape) >= 1):
            raise UsageError(
                f"latent_shape is {self.latent_shape}; the columns {codes} need the shape of one code, "
                "for example (layers, 512)"
            )
        others = [column for name, column in columns.items() if name not in named]
        object.__setattr__(self, "arrays", tuple(named))
        object.__setattr__(self, "columns", (*(columns[name] for name in named), *others))

    def to_json(self) -> dict[str, Any]:
        """Return the specification as a JSON object; `from_json` is its inverse."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        others = [column.to_json() for column in self.columns if column.name not in self.arrays]
        roles = [role.to_json() for role in self.roles]
        # caches without columns or roles of their own keep the identity that they had before there were any
        del values["columns"], values["roles"]
        later = {"columns": others, "roles": roles}
        document: dict[str, Any] = json.loads(
            canonical_json(values | {name: value for name, value in later.items() if value})
        )
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "CacheSpec":
        """Return the specification in a `to_json` object; CorruptDataError if keys are missing or unknown."""
        try:
            document = checked(Specification, document)
            columns = [Column.from_json(column) for column in document.get("columns", ())]
            roles = tuple(Role.from_json(role) for role in document.get("roles", ()))
            return cls(**document | {"columns": columns, "roles": roles})
        except (TypeError, KeyError, AttributeError, UsageError) as error:
            expected = [f.name for f in fields(cls)]
            raise CorruptDataError(
                f"the cache's specification cannot be read: {error}; expected keys {expected}"
            ) from error

    @property
    def identity(self) -> str:
        """``sha256:…`` over all fields except `versions`, and the format version."""
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
            self._layout("status", (N,), "<u1", ("image",), int(Status.ABSENT)),
            *map(self._column_layout, self.columns),
        ]
        return {layout.name: layout for layout in layouts}

    def _column_layout(self, column: Column) -> ArrayLayout:
        shape, axes = column.shape, tuple(f"entry_{i}" for i in range(len(column.shape)))
        if column.codes:
            shape = self.latent_shape or ()
            axes = ("layer", "latent") if len(shape) == 2 else tuple(f"code_{i}" for i in range(len(shape)))
        if column.per_view:
            shape, axes = (self.num_views, *shape), ("view", *axes)
        kind = np.dtype(column.dtype).kind
        fill = 0 if column.codes else {"f": math.nan, "i": -1, "u": 0}[kind]
        sharded = column.codes or bool(column.shape)
        whole = (self.num_images, *shape)
        return self._layout(column.name, whole, column.dtype, ("image", *axes), fill, sharded)

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
            small = [rows for rows in range(1, math.isqrt(S) + 1) if S % rows == 0]
            divisors = sorted({*small, *(S // rows for rows in small)})
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
