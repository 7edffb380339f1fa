"""Crashes and hangs of a process: a stack trace on this machine, and a forced end.

A crash in native code (segmentation fault, abort) and a step that never returns cannot be caught as
exceptions. `CrashTrace` lets Python's fault handler write the stack to a file, which is read to judge the
attempt; `Watchdog` ends the process when a shard exceeds its time limit.
"""

import contextlib
import faulthandler
import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewgen.terminal import unescaped
from viewgen_pipelines.executors.process import private_folder
from viewgen_pipelines.shards.lease import process_is_alive

__all__ = ["CrashTrace", "Watchdog"]

# After a timeout the ledger gets so long to be told; a process that holds the interpreter lock cannot.
_GRACE_SECONDS = 15.0
_EXIT_CODE = 1


class CrashTrace:
    """While entered, lets a crash of this process write its stack to a file of this run."""

    def __init__(self, run_id: str) -> None:
        self.path = _trace_path(run_id, os.getpid())
        self._file: io.FileIO | None = None

    def __enter__(self) -> "CrashTrace":
        self._was_enabled = faulthandler.is_enabled()
        self._file = io.FileIO(self.path, "w")
        faulthandler.enable(self._file, all_threads=False)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.disable()
        if self._was_enabled and sys.__stderr__ is not None:
            with contextlib.suppress(ValueError, OSError):
                faulthandler.enable(sys.__stderr__)
        if self._file is not None:
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def fileno(self) -> int:
        """Descriptor of the open file, for the fault handler."""
        assert self._file is not None
        return self._file.fileno()

    @staticmethod
    def take(run_id: str, worker: dict[str, Any]) -> str:
        """Return and delete the trace of an ended process of this machine; '' if it left none."""
        if process_is_alive(worker) is not False:
            return ""
        path = _trace_path(run_id, int(worker["pid"]))
        try:
            trace = path.read_text(errors="replace")
            path.unlink()
        except OSError:
            return ""
        return trace.partition("Extension modules:")[0].strip()

    @staticmethod
    def sweep(run_id: str) -> None:
        """Delete the traces of an ended run, and all unread traces that are older than a month."""
        for path in private_folder().glob("crash-*.txt"):
            with contextlib.suppress(OSError):
                if (
                    path.name.startswith(f"crash-{run_id}-")
                    or path.stat().st_mtime < time.time() - 30 * 86400
                ):
                    path.unlink()


class Watchdog:
    """Ends the process if a block takes longer than `seconds`.

    Args:
        seconds: time limit of the block.
        trace: file that the fault handler writes to if the interpreter itself is stuck.
        on_timeout: function called with the stacks of all threads just before the end.
    """

    def __init__(self, seconds: float, trace: CrashTrace, on_timeout: Callable[[str], object]) -> None:
        self.seconds = seconds
        self.trace = trace
        self.on_timeout = on_timeout
        self._main = threading.get_ident()

    def __enter__(self) -> "Watchdog":
        self._timer = threading.Timer(self.seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()
        faulthandler.dump_traceback_later(self.seconds + _GRACE_SECONDS, exit=True, file=self.trace.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        faulthandler.cancel_dump_traceback_later()

    def _expire(self) -> None:
        frame = sys._current_frames().get(self._main)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        try:
            self.on_timeout(stack)
        finally:
            if sys.stderr is not None and sys.stderr.isatty():
                unescaped(sys.stderr).write("\x1b[?25h")  # a progress bar may have hidden the cursor
                sys.stderr.flush()
            os._exit(_EXIT_CODE)


def _trace_path(run_id: str, pid: int) -> Path:
    return private_folder() / f"crash-{run_id}-{pid}.txt"
