"""All errors that viewgen raises on purpose, with their exit codes on the command line.

A message says what came, what was expected and what to do. Each class is also the built-in error it
specialises, so that callers who know only Python can catch it.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CacheMismatchError",
    "CorruptDataError",
    "DataError",
    "IncompleteError",
    "LeaseError",
    "MissingExtraError",
    "MissingFileError",
    "ModelError",
    "OutOfMemoryError",
    "StorageError",
    "UsageError",
    "ViewgenError",
    "nearest_name",
]


class ViewgenError(Exception):
    """Base of all deliberate errors; exit code 1."""

    exit_code = 1


class UsageError(ViewgenError, ValueError):
    """An argument that cannot be used; exit code 2."""

    exit_code = 2


class CacheMismatchError(ViewgenError, ValueError):
    """The configuration differs from that of the cache at the URL; exit code 3."""

    exit_code = 3


class IncompleteError(ViewgenError, RuntimeError):
    """The job ended with quarantined samples or shards; exit code 4."""

    exit_code = 4


class CorruptDataError(ViewgenError, ValueError):
    """Stored bytes differ from what was committed, or an archive is damaged; exit code 5."""

    exit_code = 5


class MissingExtraError(ViewgenError, ImportError):
    """The packages of an optional part are not installed; the message names the extra."""


class MissingFileError(ViewgenError, FileNotFoundError):
    """Data or weights are missing; the message names the file, its URL and its destination."""


class DataError(ViewgenError, ValueError):
    """A data set is empty, has unexpected shapes, or does not fit the models."""


class ModelError(ViewgenError, ValueError):
    """Weights do not fit the network: a missing key, a wrong shape, another resolution."""


class OutOfMemoryError(ViewgenError, MemoryError):
    """The smallest batch does not fit into memory."""


class StorageError(ViewgenError, OSError):
    """A URL cannot be read or written."""


class LeaseError(ViewgenError, RuntimeError):
    """Another run holds the cache."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean X?'`` for the known name closest to `name`, or an empty string."""
    spellings = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower(), list(spellings), n=1, cutoff=0.5)
    return f"; did you mean {spellings[close[0]]!r}?" if close else ""
