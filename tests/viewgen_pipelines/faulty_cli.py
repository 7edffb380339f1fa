"""The real command line with the test method registered, and a way to die at the n-th write.

python faulty_cli.py [--kill-at-write N] [--fail-at-write N] cache --dataset digits --method faulty …
"""

import errno
import os
import signal
import sys
from typing import Any

import faulty_method  # noqa: F401

from viewgen.cli import main
from viewgen.store import LocalStorage


def at_write(number: int, act: Any) -> None:
    """Have `act` called before the number-th object is written, counting from 0, in this process."""
    count = -1

    def counted(original: Any) -> Any:
        def write(self: LocalStorage, path: str, data: bytes) -> None:
            nonlocal count
            if "lease" not in path:
                count += 1
                if count >= number:
                    act(path)
            original(self, path, data)

        return write

    LocalStorage.write_new = counted(LocalStorage.write_new)  # type: ignore[method-assign]
    LocalStorage.write = counted(LocalStorage.write)  # type: ignore[method-assign]


def kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full(path: str) -> None:
    from viewgen.errors import StorageError

    error = StorageError(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")
    raise error from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if __name__ == "__main__":
    words = sys.argv[1:]
    while words and words[0] in ("--kill-at-write", "--fail-at-write"):
        at_write(int(words[1]), kill if words[0] == "--kill-at-write" else disk_full)
        words = words[2:]
    main(words)
