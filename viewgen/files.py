"""Atomic writes of files."""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["TEMPORARY_SUFFIX", "can_link", "make_folder", "remove_leftovers", "write_atomically"]

TEMPORARY_SUFFIX = ".viewgen-tmp"
"""Ending of the names of temporary files; a killed writer leaves one behind."""

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
        OSError: the file cannot be written; only the old file remains.
    """
    target = Path(path)
    make_folder(target.parent)
    mark = "" if sole_writer else f".{os.getpid()}.{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.name}{mark}{TEMPORARY_SUFFIX}")
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


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and make their names durable."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _flush_folder(new.parent)


def remove_leftovers(folder: Path, older_than_seconds: float) -> None:
    """Delete the temporary files that killed writers left in a folder, at any depth."""
    oldest = time.time() - older_than_seconds
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(TEMPORARY_SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    file = Path(parent, name)
                    if file.stat().st_mtime <= oldest:
                        file.unlink()


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
