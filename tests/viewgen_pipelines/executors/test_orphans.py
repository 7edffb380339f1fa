"""What a driver that is killed leaves behind: nothing, after some seconds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from viewgen_pipelines.executors.orphans import below, children_named

# A driver whose child has a child that ignores everything but SIGKILL, as Ray's agents do.
DRIVER = """
import subprocess, sys, time
from viewgen_pipelines.executors.orphans import below, ended_with_this_process
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
STARTS = f"subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}])"
CHILD = f"import subprocess, sys, time; {STARTS}; time.sleep(60)"
child = subprocess.Popen([sys.executable, "-S", "-c", CHILD])
bystander = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
while sys.argv[1] == "leaves" and len(below({child.pid})) < 2:
    time.sleep(0.01)
with ended_with_this_process([child.pid], grace_seconds=0.3):
    print(child.pid, bystander.pid, flush=True)
    if sys.argv[1] == "killed":
        time.sleep(60)
    child.kill(), child.wait()
bystander.kill()
print("left", flush=True)
"""


def alive(pid, start):
    return below({pid}).get(pid) == start


def tree_of(driver):
    """Return the processes of the driver's child once all are there, and the bystander."""
    child, bystander = map(int, driver.stdout.readline().split())
    while len(found := below({child})) < 2:
        time.sleep(0.01)
    time.sleep(1.3)  # the watcher looks once a second
    return found, bystander


def wait_for_the_end(processes, seconds):
    end = time.monotonic() + seconds
    while any(alive(*process) for process in processes.items()) and time.monotonic() < end:
        time.sleep(0.05)
    return [process for process in processes.items() if alive(*process)]


def start(how):
    return subprocess.Popen([sys.executable, "-c", DRIVER, how], stdout=subprocess.PIPE, text=True)


def test_nothing_below_the_roots_outlives_a_driver_that_is_killed():
    with start("killed") as driver:
        processes, bystander = tree_of(driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        try:
            assert wait_for_the_end(processes, 20) == []
            assert bystander in below({bystander}), "what the driver started otherwise is not touched"
        finally:
            os.kill(bystander, signal.SIGKILL)


def test_on_leaving_nothing_is_left_either():
    with start("leaves") as driver:
        out, _ = driver.communicate(timeout=60)
        child, _, last = out.split()
        assert last == "left"
        assert below({int(child)}) == {}


def test_children_are_found_by_the_name_of_their_program():
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n":
                time.sleep(0.01)
            assert children_named("sleep") == [child.pid]
            assert children_named("sleep", parent=1) == []
            assert children_named("raylet", parent=child.pid) == []
        finally:
            child.kill()
