"""A block that takes too long ends its process, even where Python itself is stuck."""

import subprocess
import sys
import threading

import pytest

from viewgen_pipelines.shards.watchdog import CrashTrace, Watchdog

HANG = """
import os, sys, time
from viewgen_pipelines.shards import watchdog
from viewgen_pipelines.shards.watchdog import CrashTrace, Watchdog

watchdog._GRACE_SECONDS = 0.3

def hang_in_python():
    time.sleep(600)

def hang_with_the_interpreter_lock():
    import ctypes
    ctypes.PyDLL(None).sleep(600)

trace = CrashTrace("hang-test").__enter__()
print(trace.path, flush=True)
with Watchdog(0.3, trace, lambda stack: print(stack, flush=True)):
    globals()[sys.argv[1]]()
"""


@pytest.mark.parametrize("where", ["hang_in_python", "hang_with_the_interpreter_lock"])
def test_a_hang_ends_the_process_and_leaves_its_stack(where):
    process = subprocess.run([sys.executable, "-c", HANG, where], capture_output=True, text=True, timeout=60)
    assert process.returncode == 1, process.stderr
    path, _, told = process.stdout.partition("\n")
    with open(path) as file:
        trace = file.read()
    # the handler is told by a thread, which needs the lock; without it only the trace file tells
    assert where in (told if where == "hang_in_python" else trace)
    CrashTrace.sweep("hang-test")


def test_a_block_in_time_is_left_alone():
    told = []
    with CrashTrace("quick") as trace:
        for _ in range(3):
            with Watchdog(30, trace, told.append):
                pass
    assert told == []
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
