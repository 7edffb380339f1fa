"""The end of the processes that outlive a driver that is killed.

The kernel ends GCS, raylet and dashboard of a local Ray session with the driver. The raylet's agents notice
it themselves and then try for a minute to tell the GCS, which has ended too; a worker that is just starting
takes half a minute. A watcher, a process of its own that sleeps, ends them: it knows the driver's end by the
end of a pipe, whatever the driver died of.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["below", "children_named", "children_running", "ended_with_this_process"]

# The watcher runs this file alone, without the package: standard library only.
LOOK_SECONDS = 1.0
GRACE_SECONDS = 3.0
WAIT_SECONDS = 10.0


@contextlib.contextmanager
def ended_with_this_process(roots: list[int], grace_seconds: float = GRACE_SECONDS) -> Iterator[None]:
    """While entered, let all processes below `roots` end with this process, whatever ends it.

    On leaving they end too. Without ``/proc`` this does nothing.

    Args:
        roots: ids of processes.
        grace_seconds: time that they have to end by themselves.
    """
    if not roots or not Path("/proc/self/stat").exists():
        yield
        return
    # what runs already is noted here: it may have ended, and left children, when the watcher first looks
    known = [f"{pid}:{start}" for pid, start in below(set(roots)).items()]
    words = [sys.executable, "-I", "-S", __file__, str(grace_seconds), *known]
    # signals of the terminal, and of whoever ends this process's group, must not reach it
    watcher = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert watcher.stdin is not None
    try:
        yield
    finally:
        watcher.stdin.close()
        try:
            watcher.wait(timeout=grace_seconds + WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            # a process forked meanwhile holds the pipe open
            watcher.kill()
            watcher.wait()


def children_named(name: str, parent: int | None = None) -> list[int]:
    """Return the child processes of a process, by default this one, that run a program of that name."""
    parent = os.getpid() if parent is None else parent
    found = []
    for pid, (its_parent, _) in _processes().items():
        with contextlib.suppress(OSError):
            if its_parent == parent and Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(pid)
    return found


def children_running(part: str) -> list[int]:
    """Return the child processes of this one whose command line contains a text."""
    found = []
    for pid, (parent, _) in _processes().items():
        with contextlib.suppress(OSError):
            if parent == os.getpid() and part.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def below(roots: set[int]) -> dict[int, str]:
    """Return process → start of `roots` and all processes that they started, and these started."""
    processes = _processes()
    found = {pid: processes[pid][1] for pid in roots if pid in processes}
    while True:
        new = {pid: start for pid, (parent, start) in processes.items() if parent in found}
        if new.keys() <= found.keys():
            return found
        found |= new


def _processes() -> dict[int, tuple[int, str]]:
    """Return process → its parent and its start, in clock ticks since boot; without ended ones.

    Nothing where there is no ``/proc``.
    """
    found: dict[int, tuple[int, str]] = {}
    if not Path("/proc/self/stat").exists():
        return found
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = Path(entry.path, "stat").read_text(errors="replace").rpartition(")")[2].split()
                    if fields[0] not in "ZX":
                        found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def _watch(known: dict[int, str], grace_seconds: float) -> None:
    """Note what runs below `known`, process → start, until standard input ends; then end what is left."""
    import select

    while True:
        known |= below({pid for pid, start in known.items() if _start(pid) == start})
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            break
    end = time.monotonic() + grace_seconds
    while left := [pid for pid, start in known.items() if _start(pid) == start]:
        if time.monotonic() >= end:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.1)


def _start(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


if __name__ == "__main__":
    _watch({int(pid): start for pid, start in (word.split(":") for word in sys.argv[2:])}, float(sys.argv[1]))
