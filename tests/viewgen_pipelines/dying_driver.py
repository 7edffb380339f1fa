"""A driver with the local executor, in a process of its own, that may kill itself at its n-th write."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import faulty_method

__all__ = ["run_driver"]

# Forked from a process that has imported everything but started nothing: a start takes milliseconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["faulty_method", "viewgen_pipelines.caching", "sklearn.datasets"])


def run_driver(faults: Path, kill_at_write: int | None = None, **options: Any) -> int:
    """Run `cache` on digits and return the exit code: 0, 4, 1 for an error, −signal.

    What it writes to standard error goes to the file ``<faults>.stderr``.
    """
    process = _CONTEXT.Process(target=_drive, args=(str(faults), kill_at_write, options))
    process.start()
    process.join(timeout=120)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("the driver did not end")
    return process.exitcode


def _drive(faults: str, kill_at_write: int | None, options: dict[str, Any]) -> None:
    os.environ[faulty_method.FAULTS] = faults
    os.fsync = lambda descriptor: None
    stderr = os.open(f"{faults}.stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stderr, 2)
    if kill_at_write is not None:
        _die_at_write(kill_at_write)
    from viewgen_pipelines import cache

    result = cache("digits", method="faulty", executor="local", quiet=True, **options)
    raise SystemExit(0 if result.complete else 4)


def _die_at_write(number: int) -> None:
    """Die at the number-th object, counting from 0: once half of it is in its temporary file."""
    from viewgen.store import LocalStorage

    count = -1
    write = LocalStorage._temporary_file

    def counted(self: LocalStorage, target: Path, data: bytes) -> Any:
        nonlocal count
        if "lease" not in str(target):
            count += 1
            if count == number:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.with_name(f".{target.name}.{os.getpid()}.torn.viewgen-tmp").write_bytes(
                    data[: len(data) // 2]
                )
                os.kill(os.getpid(), signal.SIGKILL)
        return write(self, target, data)

    LocalStorage._temporary_file = counted  # type: ignore[method-assign]
