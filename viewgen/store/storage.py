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

from viewgen.documents import MOST_BYTES
from viewgen.errors import CorruptDataError, MissingFileError, StorageError, UsageError
from viewgen.files import (
    TEMPORARY_SUFFIX,
    can_link,
    leftovers,
    open_regular,
    remove_leftovers,
    unless_absent,
    write_atomically,
)
from viewgen.redaction import remember_options, remember_url

__all__ = [
    "MOST_RECORD_BYTES",
    "LocalStorage",
    "ObjectExistsError",
    "Storage",
    "open_storage",
    "parse_storage_options",
]

PROBE = "run/probe"
"""Beginning of the path of the objects that `Storage.refuses_existing` tries, and deletes."""

MOST_RECORD_BYTES = 32_000_000
"""Largest commit record: a status for each of 2²⁰ images, and reasons for thousands of failures."""

_MOST_BLOCK_BYTES = 256_000_000
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ObjectExistsError(StorageError, FileExistsError):
    """A create-only write found an existing object."""


def most_bytes(path: str) -> int | None:
    """Return the largest size of a document, by its name; None for shard objects and other files.

    A document is read whole before anything is known about it, so that one beyond its bound is refused.
    """
    if path.startswith("commits/"):
        return _MOST_BLOCK_BYTES if path.endswith(".jsonl") else MOST_RECORD_BYTES
    return MOST_BYTES if path.endswith(".json") else None


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
        """Return the object's bytes.

        Raises:
            MissingFileError: it is absent.
            CorruptDataError: a document is larger than `most_bytes`, or a local file is no regular one.
        """

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

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return path → size in bytes of all objects below the folder `prefix`, at any depth."""
        found = ((path, self.size(path)) for path in self.paths(prefix))
        return {path: size for path, size in found if size is not None}

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

    def fingerprint(self, path: str) -> str:
        """Return a text that changes when the object does, and not when it is read.

        As far as can be told without reading it; by default from the size alone.

        Raises:
            MissingFileError: it is absent.
        """
        if (size := self.size(path)) is None:
            raise MissingFileError(f"{self.url}/{path} does not exist")
        return str(size)

    def stamps(self, wanted: Callable[[str], bool] = bool) -> dict[str, str]:
        """Return path → a text as `fingerprint` makes it, of the wanted objects; the two may differ.

        Args:
            wanted: function of a path; some file systems are asked for each wanted object.
        """
        return {path: self.fingerprint(path) for path in self.paths() if wanted(path)}

    def refuses_existing(self) -> bool:
        """Try whether `write_new` holds when two processes create an object at the same time."""
        return True

    def read_document(self, path: str, most: int) -> bytes:
        """Return the bytes of an object of at most `most` bytes; CorruptDataError if it is larger."""
        data = self.read_range(path, 0, most + 1)
        if len(data) > most:
            raise CorruptDataError(f"{self.url}/{path} is larger than {most} bytes; viewgen did not write it")
        return data

    def leftovers(self) -> list[str]:
        """Return the paths of temporary files, of writers at work or killed."""
        return []

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
        if (most := most_bytes(path)) is not None:
            return self.read_document(path, most)
        with self._clear_errors("read", path), open_regular(self.local_path(path)) as file:
            return file.read()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._clear_errors("read", path), open_regular(self.local_path(path)) as file:
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

    def fingerprint(self, path: str) -> str:
        with self._clear_errors("read", path):
            found = self.local_path(path).stat()
        return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"

    def paths(self, prefix: str = "") -> list[str]:
        folder = self.local_path(prefix) if prefix else self.root
        found = []
        with self._clear_errors("list", prefix):
            for parent, _, names in os.walk(folder, onerror=unless_absent):
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
            for parent, _, names in os.walk(folder, topdown=False, onerror=unless_absent):
                for name in names:
                    Path(parent, name).unlink(missing_ok=True)
                # a folder symlink inside the cache is a file to us: never walk out of the cache
                for link in [entry.path for entry in os.scandir(parent) if entry.is_symlink()]:
                    Path(link).unlink()
                Path(parent).rmdir()

    def refuses_existing(self) -> bool:
        with self._clear_errors("write", PROBE):
            return can_link(self.local_path(PROBE))

    def leftovers(self) -> list[str]:
        with self._clear_errors("list", ""):
            return [file.relative_to(self.root).as_posix() for file in leftovers(self.root)]

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
    remember_url(url)
    remember_options(storage_options or {})
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
