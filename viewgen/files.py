"""Atomic writes of files."""

import contextlib
import errno
import hashlib
import math
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from viewgen.errors import CorruptDataError, StorageError

__all__ = [
    "TEMPORARY_SUFFIX",
    "can_link",
    "file_sha256",
    "free_text",
    "leftovers",
    "link_atomically",
    "make_folder",
    "open_regular",
    "remove_leftovers",
    "unless_absent",
    "write_atomically",
]

TEMPORARY_SUFFIX = ".viewgen-tmp"
"""Ending of the names of temporary files; a killed writer leaves one behind."""

# Windows has none of the first two, and needs the last
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_PART_BYTES = 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_atomically(
    path: str | Path,
    data: bytes | Callable[[IO[bytes]], object],
    *,
    create_only: bool = False,
    sole_writer: bool = False,
) -> None:
    """Write a file atomically, and create missing folders: readers see the old file, the new one, or none.

    The bytes go to a temporary file in the same folder, are flushed to the device, and take their name by a
    rename, or by a hard link where the file must be new. On file systems without hard links, a create-only
    write is a check followed by a rename, which two writers can race.

    Args:
        path: name of the file.
        data: contents, or a function that writes them to an open file.
        create_only: refuse to replace a file.
        sole_writer: promise that nobody else writes this file at the same time. The temporary file then has a
            fixed name, and killed runs leave at most one.

    Raises:
        FileExistsError: the file exists and `create_only` is set.
        StorageError: the device is full; only the old file remains. The message has the free bytes.
        OSError: the file cannot be written for another reason; only the old file remains.
    """
    target = Path(path)
    make_folder(target.parent)
    temporary = _temporary(target, sole_writer=sole_writer)
    try:
        with temporary.open("wb" if sole_writer else "xb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if create_only:
            _name_new(temporary, target)
        else:
            temporary.replace(target)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        reason = f"{os.strerror(error.errno)}; {free_text(target.parent)}"
        raise StorageError(error.errno, reason, str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(target.parent)


def can_link(path: Path) -> bool:
    """Try whether the file system at `path` has hard links, which make create-only writes atomic."""
    make_folder(path.parent)
    first, second = (path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}") for _ in "ab")
    try:
        first.touch(exist_ok=False)
        os.link(first, second)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return False
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)
    return True


def link_atomically(source: Path, target: Path) -> None:
    """Give a file a second name atomically, in place of what has it; a copy where there are no hard links."""
    temporary = _temporary(target)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        # two names of one file are left as they are by a rename
        temporary.unlink(missing_ok=True)
    _flush_folder(target.parent)


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        CorruptDataError: it is a pipe, a device or a socket, which could block or never end.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | _OPEN_FLAGS)
    file = os.fdopen(descriptor, "rb") if not stat.S_ISDIR(mode := os.fstat(descriptor).st_mode) else None
    if file is None:
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        file.close()
        raise CorruptDataError(f"{path} is not a regular file (a pipe, a device or a socket?); remove it")
    return file


def file_sha256(path: str | Path, length: int | None = None) -> str:
    """Return the hexadecimal sha256 digest of a file, or of its first `length` bytes."""
    digest = hashlib.sha256()
    left = math.inf if length is None else length
    with open_regular(path) as file:
        while left > 0 and (part := file.read(int(min(left, _PART_BYTES)))):
            digest.update(part)
            left -= len(part)
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and make their names durable."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _flush_folder(new.parent)


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files of writers, at work or killed, in a folder, at any depth."""
    found = []
    for parent, _, names in os.walk(folder, onerror=unless_absent):
        found += [Path(parent, name) for name in names if name.endswith(TEMPORARY_SUFFIX)]
    return sorted(found)


def remove_leftovers(folder: Path, older_than_seconds: float) -> None:
    """Delete the temporary files that killed writers left in a folder, at any depth."""
    oldest = time.time() - older_than_seconds
    for file in leftovers(folder):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime <= oldest:
                file.unlink()


def free_text(folder: Path) -> str:
    """Return the free space of a folder's device for messages: ``"1234 bytes are free"``."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free:,} bytes are free"


def unless_absent(error: OSError) -> None:
    """Raise the reason for which a folder cannot be listed, unless it is missing: unreadable is not empty."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _temporary(target: Path, *, sole_writer: bool = False) -> Path:
    mark = "" if sole_writer else f".{os.getpid()}.{secrets.token_hex(4)}"
    return target.with_name(f".{target.name}{mark}{TEMPORARY_SUFFIX}")


def _name_new(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
        temporary.replace(target)


def _flush_folder(folder: Path) -> None:
    """Make the names in `folder` durable, where the platform can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
