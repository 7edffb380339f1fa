"""Files of a data set at a path or a URL, as open files.

A URL is one that fsspec knows: s3, gs, https, memory … Its credentials are those of the environment.
"""

import fnmatch
import io
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import IO, Any

from viewgen.errors import DataError, MissingFileError, StorageError, UsageError
from viewgen.files import open_regular
from viewgen.store.storage import Storage, open_storage

__all__ = ["absolute", "expanded", "is_url", "open_file", "stamp"]

BUFFER_BYTES = 4 << 20
MOST_FILES = 100_000

_BRACES = re.compile(r"\{([^{}]*)\}")


def is_url(path: str) -> bool:
    """Return True for a URL that is not of this machine's disk."""
    protocol, separator, _ = path.partition("://")
    return bool(separator) and protocol not in ("file", "local")


def _local(path: str) -> Path:
    return Path(path.partition("://")[2] if "://" in path else path).expanduser()


def _parts(url: str) -> tuple[str, str]:
    path, mark, query = url.partition("?")
    folder, _, name = path.rpartition("/")
    if folder.endswith(":/") or not name:
        raise UsageError(f"{url} names no file; expected PROTOCOL://FOLDER/FILE")
    return folder, name + mark + query


def absolute(path: str) -> str:
    """Return a URL as it is, and the absolute path of a local file, whatever the working folder is later."""
    return path if is_url(path) else str(_local(path).absolute())


def open_file(path: str) -> IO[bytes]:
    """Open a file at a path or URL for reading; it can seek.

    Raises:
        MissingFileError: there is no such file.
        StorageError: it cannot be read.
    """
    if is_url(path):
        folder, name = _parts(path)
        raw = _Remote(open_storage(folder), name)
        return io.BufferedReader(raw, BUFFER_BYTES)
    try:
        return open_regular(_local(path))
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {_local(path)}") from error
    except OSError as error:
        raise StorageError(f"cannot read {_local(path)}: {error.strerror}") from error


def stamp(path: str) -> list[Any]:
    """Return what changes when a file does: its size, and the time of its last change where that is known.

    Raises:
        MissingFileError: there is no such file.
    """
    if is_url(path):
        folder, name = _parts(path)
        storage = open_storage(folder)
        size = storage.size(name)
        if size is None:
            raise MissingFileError(f"there is no file {path}")
        return [path, size, storage.fingerprint(name)]
    try:
        found = _local(path).stat()
    except OSError as error:
        raise MissingFileError(f"there is no file {_local(path)}: {error.strerror}") from error
    return [str(_local(path).absolute()), found.st_size, found.st_mtime_ns]


def expanded(pattern: str) -> list[str]:
    """Return the files that a pattern names, in order.

    Args:
        pattern: path or URL with ``{000..012}`` for numbers, ``{a,b}`` for words, and in the last part
            ``*``, ``[ab]``, and on disk ``?``. A file whose name has these characters is that file.

    Raises:
        DataError: it names no file, or too many.
    """
    found: list[str] = []
    for path in _braces(pattern):
        found += _globbed(path)
        if len(found) > MOST_FILES:
            raise DataError(f"{pattern} names more than {MOST_FILES:,} files")
    if not found:
        raise DataError(f"{pattern} names no file")
    return found


def _globbed(path: str) -> list[str]:
    """Return the files of a pattern; the path itself where it is none, or the name of a file."""
    if not is_url(path):
        local = _local(path)
        if not re.search(r"[*?\[]", local.name) or local.is_file():
            return [path]
        return sorted(str(file) for file in local.parent.glob(local.name) if file.is_file())
    # the question mark of a URL begins its query
    if not re.search(r"[*\[]", path.partition("?")[0].rpartition("/")[2]):
        return [path]
    folder, name = _parts(path)
    name = name.replace("?", "[?]")
    there = open_storage(folder).paths()
    return [f"{folder}/{file}" for file in there if "/" not in file and fnmatch.fnmatchcase(file, name)]


def _braces(pattern: str) -> Iterator[str]:
    """Yield the texts of a pattern with braces."""
    pieces = _BRACES.split(pattern)
    choices = [[piece] if number % 2 == 0 else _choice(piece) for number, piece in enumerate(pieces)]
    for chosen in product(*choices):
        yield "".join(chosen)


def _choice(inner: str) -> list[str]:
    first, dots, last = inner.partition("..")
    if dots and first.isdigit() and last.isdigit():
        if int(last) - int(first) >= MOST_FILES:
            raise DataError(f"{{{inner}}} names more than {MOST_FILES:,} files")
        return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return inner.split(",")


class _Remote(io.RawIOBase):
    """A file of a storage, read by ranges."""

    def __init__(self, storage: Storage, name: str) -> None:
        size = storage.size(name)
        if size is None:
            raise MissingFileError(f"there is no file {storage.url}/{name}")
        self._storage, self._name, self._size, self._place = storage, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._place)
        if length <= 0:
            return 0
        data = self._storage.read_range(self._name, self._place, length)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
