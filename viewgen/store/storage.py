"""Storage of caches: one interface for a local folder, memory and every fsspec URL.

Paths are relative to the URL and use forward slashes (``commits/00000042.json``). The interface is limited to
the needs of a cache: atomic writes of whole objects, some of them create-only, and range reads.
"""

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from viewgen.errors import MissingFileError, StorageError, UsageError
from viewgen.files import TEMPORARY_SUFFIX, can_link, remove_leftovers, write_atomically

__all__ = ["LocalStorage", "ObjectExistsError", "Storage", "open_storage", "parse_storage_options"]

PROBE = "run/probe"
"""Beginning of the path of the objects that `Storage.refuses_existing` tries, and deletes."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ObjectExistsError(StorageError, FileExistsError):
    """A create-only write found an existing object."""


class Storage(ABC):
    """A flat space of objects below one URL.

    Attributes:
        url: URL for messages and reports, without credentials.
        parallel_reads: useful number of concurrent reads.
    """

    url: str
    parallel_reads = 1

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the object's bytes; MissingFileError if it is absent."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return up to `length` bytes from byte `start`; fewer at the end of the object."""

    @abstractmethod
    def write_new(self, path: str, data: bytes) -> None:
        """Write an object that must not exist yet, atomically and durably; ObjectExistsError if it does."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write or replace an object, atomically and durably."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Return the object's size in bytes, None if it is absent."""

    @abstractmethod
    def paths(self, prefix: str = "") -> list[str]:
        """Return the paths of all objects below the folder `prefix`, at any depth, sorted."""

    @abstractmethod
    def entries(self) -> list[str]:
        """Return the names of the files and folders directly below the URL, sorted."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete an object; no effect if it is absent."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Delete every object below the folder `prefix`; no effect if there are none."""

    def exists(self, path: str) -> bool:
        """Return True if the object exists."""
        return self.size(path) is not None

    def local_path(self, path: str) -> Path | None:
        """Return the file of the object if it can be memory-mapped, otherwise None."""
        return None

    def refuses_existing(self) -> bool:
        """Try whether `write_new` holds when two processes create an object at the same time."""
        return True

    def remove_leftovers(self, older_than_seconds: float = 3600) -> None:  # noqa: B027 most have none
        """Delete the temporary files that killed writers left behind."""

    def map_parallel(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item], at_most: int | None = None
    ) -> Iterator[_Result]:
        """Apply `function` to `items`, in order, with at most `parallel_reads` (or fewer) calls in flight."""
        workers = min(self.parallel_reads, at_most or self.parallel_reads)
        if workers == 1:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(function, items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def _unless_absent(error: OSError) -> None:
    """Raise what a folder cannot be listed for, unless it is not there: unreadable is not empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


class LocalStorage(Storage):
    """A folder on a local or network file system.

    Writes are those of `write_atomically`: durable, and a reader sees the whole object or none.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.url = str(root)

    def local_path(self, path: str) -> Path:
        parts = path.split("/")
        if path.startswith("/") or ".." in parts:
            raise UsageError(f"{path!r} is not a path inside the cache {self.url}")
        return self.root.joinpath(*parts)

    def read(self, path: str) -> bytes:
        with self._clear_errors("read", path):
            return self.local_path(path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._clear_errors("read", path), self.local_path(path).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def write_new(self, path: str, data: bytes) -> None:
        target = self.local_path(path)
        with self._clear_errors("write", path):
            write_atomically(target, data, create_only=True)

    def write(self, path: str, data: bytes) -> None:
        target = self.local_path(path)
        with self._clear_errors("write", path):
            write_atomically(target, data)

    def size(self, path: str) -> int | None:
        with self._clear_errors("read", path):
            try:
                return self.local_path(path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def paths(self, prefix: str = "") -> list[str]:
        folder = self.local_path(prefix) if prefix else self.root
        found = []
        with self._clear_errors("list", prefix):
            for parent, _, names in os.walk(folder, onerror=_unless_absent):
                relative = Path(parent).relative_to(self.root)
                found += [(relative / n).as_posix() for n in names if not n.endswith(TEMPORARY_SUFFIX)]
        return sorted(found)

    def entries(self) -> list[str]:
        with self._clear_errors("list", ""):
            try:
                return sorted(n for n in os.listdir(self.root) if not n.endswith(TEMPORARY_SUFFIX))
            except FileNotFoundError:
                return []

    def delete(self, path: str) -> None:
        with self._clear_errors("delete", path):
            self.local_path(path).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        folder = self.local_path(prefix)
        with self._clear_errors("delete", prefix):
            for parent, _, names in os.walk(folder, topdown=False):
                for name in names:
                    Path(parent, name).unlink(missing_ok=True)
                # a folder symlink inside the cache is a file to us: never walk out of the cache
                for link in [entry.path for entry in os.scandir(parent) if entry.is_symlink()]:
                    Path(link).unlink()
                Path(parent).rmdir()

    def refuses_existing(self) -> bool:
        with self._clear_errors("write", PROBE):
            return can_link(self.local_path(PROBE))

    def remove_leftovers(self, older_than_seconds: float = 3600) -> None:
        remove_leftovers(self.root, older_than_seconds)

    @contextlib.contextmanager
    def _clear_errors(self, verb: str, path: str) -> Iterator[None]:
        """Convert an operating-system error to one message that names the file."""
        place = self.root / path
        try:
            yield
        except FileExistsError as error:
            raise ObjectExistsError(f"{place} exists already and must not be replaced") from error
        except FileNotFoundError as error:
            raise MissingFileError(f"{place} does not exist") from error
        except OSError as error:
            raise StorageError(f"cannot {verb} {place}: {error.strerror or error}") from error


def open_storage(url: str, storage_options: dict[str, Any] | None = None) -> Storage:
    """Open the storage at `url`.

    Args:
        url: a path, ``file://``, ``memory://``, ``s3://`` or any other URL that fsspec supports.
        storage_options: keyword arguments of the fsspec file system; credentials, endpoints.

    Raises:
        StorageError: the protocol is unknown or its package is missing.
    """
    if not url:
        raise StorageError("an empty URL; give a path or a URL such as s3://bucket/views.zarr")
    protocol, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(url)
    if protocol in ("file", "local"):
        return LocalStorage(rest)
    from viewgen.store.remote import FsspecStorage

    return FsspecStorage(url, storage_options)


def parse_storage_options(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse the command line's ``key=value`` pairs.

    A JSON value is parsed (``anon=true``), anything else is a string; a dotted key addresses a nested
    dictionary (``client_kwargs.endpoint_url=http://host``).
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            # the pair itself stays out of the message: it may be a credential
            raise UsageError("a storage option reads KEY=VALUE, for example anon=true")
        *folders, last = key.split(".")
        place = options
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise UsageError(f"storage option {key!r}: {folder!r} has a value of its own already")
        try:
            place[last] = json.loads(text)
        except ValueError:
            place[last] = text
    return options
