"""A lock: one process at a time downloads or decodes a data set, and the others wait for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viewgen.errors import StorageError
from viewgen.locking import lock

__all__ = ["directory_lock"]


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the exclusive lock of `directory`, which is created if absent; a killed process releases it.

    Raises:
        StorageError: the directory cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    except OSError as error:
        raise StorageError(
            f"cannot write to {directory} ({error.strerror}); "
            "name a writable data root with --data-root or VIEWGEN_DATA"
        ) from error
    try:
        lock(handle, wait=True)
        yield
    finally:
        os.close(handle)
