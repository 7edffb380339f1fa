"""The command with the local executor, in a process of its own, that may kill itself at its n-th write."""

import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import faulty_method

__all__ = ["run_driver", "start_driver"]

# Forked from a process that has imported everything but started nothing: a start takes milliseconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["faulty_method", "viewgen.cli.cache", "viewgen_pipelines.cache", "sklearn.datasets"]
)


def start_driver(faults: Path, kill_at_write: int | None = None, **options: Any) -> ForkServerProcess:
    """Start ``viewgen cache`` on digits with the faulty method; `options` are those of the command.

    What it writes to standard error goes to the file ``<faults>.stderr``.
    """
    words = ["cache", "--dataset", "digits", "--method", "faulty", "--executor", "local"]
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    process = _CONTEXT.Process(target=_drive, args=(str(faults), kill_at_write, words))
    process.start()
    return process


def run_driver(faults: Path, kill_at_write: int | None = None, **options: Any) -> int:
    """Run the command to its end and return its exit code, −signal if one ended it."""
    process = start_driver(faults, kill_at_write, **options)
    process.join(timeout=120)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError("the driver did not end")
    return process.exitcode


def _drive(faults: str, kill_at_write: int | None, words: list[str]) -> None:
    os.environ[faulty_method.FAULTS] = faults
    # a shell's background job ignores it, and hands that on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.fsync = lambda descriptor: None
    os.dup2(os.open(f"{faults}.stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if kill_at_write is not None:
        _die_at_write(kill_at_write)
    from viewgen.cli import main

    main(words)


def _die_at_write(number: int) -> None:
    """Die at the number-th object, counting from 0, with half of it in its temporary file."""
    from viewgen.store import storage

    count = -1
    write = storage.write_atomically

    def counted(target: Path, data: bytes, **options: bool) -> None:
        nonlocal count
        if "lease" not in str(target):
            count += 1
            if count == number:
                target.parent.mkdir(parents=True, exist_ok=True)
                torn = target.with_name(f".{target.name}.{os.getpid()}.torn.viewgen-tmp")
                torn.write_bytes(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        write(target, data, **options)

    storage.write_atomically = counted  # type: ignore[assignment]
