"""Columns: the arrays of a cache that a view source adds to those of every cache."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from viewgen.errors import UsageError

__all__ = ["ANCHOR_W_PLUS", "NAMED_COLUMNS", "REAL_TARGET", "W_PLUS", "Column", "real_target"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = (
    *("views", "source_index", "label", "distance", "steps", "inversion_error", "status"),
    *("commits", "run", "quality"),
)
_TYPES = (*(f"<{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "<f2", "<f4", "<f8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """An array that a view source adds to those of every cache.

    Attributes:
        name: name of the array: lower-case letters, digits, underscores.
        per_view: True for one entry per view, `(N, V, ...)`, False for one per image, `(N, ...)`.
        codes: True if an entry is a code, of the generator's `code_shape`.
        dtype: little-endian numpy type of numbers, such as ``"<f4"``.
        shape: shape of an entry other than a code; () for one number.
    """

    name: str
    per_view: bool = False
    codes: bool = False
    dtype: str = "<f4"
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not _NAME.fullmatch(self.name) or self.name in _TAKEN:
            raise UsageError(
                f"a column cannot be called {self.name!r}; expected lower-case letters, digits and "
                f"underscores, and none of {', '.join(_TAKEN)}"
            )
        if self.dtype not in _TYPES:
            raise UsageError(
                f"column {self.name!r} has type {self.dtype!r}; expected one of {', '.join(_TYPES)}"
            )
        if self.codes and self.shape:
            raise UsageError(
                f"column {self.name!r} holds codes and has a shape; the generator has that of codes"
            )
        if any(size < 1 for size in self.shape):
            raise UsageError(f"column {self.name!r} has shape {self.shape}; expected sizes of at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the column as a JSON object; `from_json` is its inverse."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Column":
        """Return the column from the result of `to_json`."""
        return cls(**document)


W_PLUS = Column(name="w_plus", per_view=True, codes=True)
"""Codes of the views."""

ANCHOR_W_PLUS = Column(name="anchor_w_plus", codes=True)
"""Refined codes of the images."""

REAL_TARGET = "real_target"
"""Name of the column of the images' real-valued targets."""


def real_target(count: int) -> Column:
    """Return the column of the images' `count` real-valued targets."""
    return Column(name=REAL_TARGET, shape=(count,))


NAMED_COLUMNS = {column.name: column for column in (W_PLUS, ANCHOR_W_PLUS)}
"""The columns of format 1 that a specification names without describing them."""
