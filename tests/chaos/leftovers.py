"""Processes that a test run left behind because it was killed: Ray clusters, galleries, drivers.

A run puts a mark into its environment, which all that it starts inherit: host, boot, container, number and
start of its first process. The next run ends those whose run has ended. Whatever has no mark, or that of a
run that goes on, is somebody else's.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from viewgen_pipelines.executors.orphans import below
from viewgen_pipelines.shards.lease import process_is_alive, this_process

__all__ = ["MARK", "mark_run", "sweep_leftovers"]

MARK = "VIEWGEN_TEST_RUN"
MOST_LOOKS, LOOK_SECONDS = 50, 0.1


def mark_run() -> None:
    """Mark whatever this process starts from now on."""
    os.environ[MARK] = json.dumps(this_process())


def sweep_leftovers() -> set[int]:
    """End this user's processes of runs that have ended, and whatever these started; return their numbers.

    Some processes of Ray write a title over their environment, and have their parents' mark only.
    """
    swept: set[int] = set()
    # again, for what one of them was about to start; one that cannot be ended is not waited for
    for _ in range(MOST_LOOKS):
        if not (marked := _leftovers()):
            break
        own = _own()
        if not (found := below(marked - own).keys() - own):
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        swept |= found
        time.sleep(LOOK_SECONDS)
    return swept


def _own() -> set[int]:
    """Return this process and those that it was started by, which may come from a run that has ended."""
    found, pid = set[int](), os.getpid()
    while pid:
        found.add(pid)
        # after the name, which may hold anything: state and parent
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _leftovers() -> set[int]:
    """Return the processes that have the mark of a run that has ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        # ended meanwhile, another user's, or a mark that is none
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            marks = [text.partition(b"=")[2] for text in variables if text.startswith(f"{MARK}=".encode())]
            ours = marks and folder.stat().st_uid == os.getuid()
            # None on another machine or in another container
            if ours and process_is_alive(json.loads(marks[0])) is False:
                found.add(int(folder.name))
    return found
