"""Processes that a test run left behind because it was killed: Ray clusters, galleries, drivers.

A run puts a mark into its environment, which all that it starts inherit: its process, the start of that
process, and the kernel's namespace of process numbers. The next run ends those whose run has ended. Whatever
has no mark, or that of a run that goes on, is somebody else's.
"""

import contextlib
import os
import signal
from pathlib import Path

from viewgen_pipelines.executors.orphans import below

__all__ = ["MARK", "mark_run", "run_mark", "sweep_leftovers"]

MARK = "VIEWGEN_TEST_RUN"


def run_mark() -> str:
    """Return the mark of a run whose first process is this one; empty without ``/proc``."""
    pid = os.getpid()
    found = below({pid})
    return f"{os.readlink('/proc/self/ns/pid')} {pid} {found[pid]}" if found else ""


def mark_run() -> None:
    """Mark whatever this process starts from now on."""
    os.environ[MARK] = run_mark()


def sweep_leftovers() -> dict[int, str]:
    """End this user's processes of runs that have ended; return their numbers and command lines."""
    swept: dict[int, str] = {}
    # one that starts another meanwhile is followed
    while found := _leftovers():
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if found.keys() <= swept.keys():
            break
        swept |= found
    return swept


def _leftovers() -> dict[int, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        # ended meanwhile, or another user's
        with contextlib.suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            marks = [text[len(MARK) + 1 :] for text in variables if text.startswith(f"{MARK}=".encode())]
            if marks and folder.stat().st_uid == os.getuid() and _has_ended(marks[0].decode()):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace").strip()
    return found


def _has_ended(mark: str) -> bool:
    """Say whether a run on this machine, and in this container, has ended."""
    namespace, _, process = mark.partition(" ")
    pid, _, start = process.partition(" ")
    return namespace == os.readlink("/proc/self/ns/pid") and below({int(pid)}).get(int(pid)) != start
