"""Timing of contenders in turn, their memory, and result files.

Every round times each contender once, one after the other, so that a busy machine slows all of them alike.
Ratios are taken within a round and given by their median, 10th and 90th percentile. Memory is measured apart
from time, in fresh processes, by the kernel's own high-water marks.
"""

import gc
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "fresh_run",
    "interleave",
    "machine",
    "memory_growth",
    "peak_bytes",
    "ratio",
    "row",
    "run_watched",
    "write_result",
]

RESULTS = Path(__file__).parent / "results"
STARTED = time.monotonic()
SAMPLE_SECONDS = 1.0  # looking costs the process that is looked at some milliseconds


def interleave(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Call every contender once a round; return its seconds in each counted round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(warm_up + rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            if round_number >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Return how many times `fast` went into `slow`, round by round: median, 10th and 90th percentile."""
    of_rounds = sorted(a / b for a, b in zip(slow, fast, strict=True))
    tenth = len(of_rounds) // 10
    return {
        "median": statistics.median(of_rounds),
        "low": of_rounds[tenth],
        "high": of_rounds[-1 - tenth],
    }


def row(
    slow: Sequence[float],
    fast: Sequence[float],
    *,
    quality: str = "",
    memory: Mapping[str, int | None] | None = None,
) -> dict[str, Any]:
    """Return a ratio with what belongs beside it.

    Args:
        slow, fast: seconds of each round.
        quality: evidence that both do the same work, in a few words with their numbers.
        memory: contender → peak memory in bytes, see `peak_bytes`.
    """
    found: dict[str, Any] = {**ratio(slow, fast), "rounds": len(slow)}
    if quality:
        found["quality"] = quality
    known = {name: size for name, size in (memory or {}).items() if size is not None}
    return found | ({"peak_bytes": known} if known else {})


def memory_growth(run: Callable[[], object]) -> int | None:
    """Return by how many bytes this process's resident set grew at most while `run` ran.

    Memory that was freed before and is used again does not count: measure in a fresh process (`peak_bytes`).
    None where the kernel has no high-water mark that can be reset (other systems than Linux).
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        run()
        return None
    before = _status_bytes("VmRSS")
    run()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def fresh_run(build: Callable[..., Callable[[], object]], *arguments: Any) -> tuple[float, int | None]:
    """Call what `build(*arguments)` returns, once, in a fresh process.

    Args:
        build: a module's function; what it sets up, inputs and libraries, is not counted.
        arguments: that can be pickled.

    Returns:
        seconds of the call, and by how many bytes the process grew at most.
    """
    # a server that has imported torch once forks the fresh processes: each would take seconds for it
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_measurement, args=(sending, build, arguments))
    process.start()
    sending.close()
    try:
        found: tuple[float, int | None] = receiving.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"{build.__name__}{arguments} ended with {process.exitcode}") from error
    process.join()
    return found


def _send_measurement(
    sending: Connection, build: Callable[..., Callable[[], object]], arguments: Sequence[Any]
) -> None:
    run = build(*arguments)
    seconds = 0.0

    def timed() -> None:
        nonlocal seconds
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start

    grown = memory_growth(timed)
    sending.send((seconds, grown))


def peak_bytes(build: Callable[..., Callable[[], object]], *arguments: Any) -> int | None:
    """Return by how many bytes a fresh process grows at most, see `fresh_run`."""
    return fresh_run(build, *arguments)[1]


def run_watched(command: Sequence[str]) -> tuple[bytes, int | None]:
    """Run a command; return its standard output, and the most memory that it and its descendants held.

    Memory is the sum of proportional set sizes (a page that k processes share counts 1/k in each), looked at
    every second; None on other systems than Linux.
    """
    process = subprocess.Popen(list(command), stdout=subprocess.PIPE)
    most = 0

    def watch() -> None:
        nonlocal most
        while process.poll() is None:
            most = max(most, sum(_proportional_bytes(pid) for pid in _family(process.pid)))
            time.sleep(SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return output, most or None


def _family(root: int) -> list[int]:
    """Return a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc") if Path("/proc/self/stat").exists() else ():
        if entry.name.isdecimal():
            with suppress(OSError):
                # the second field, a name in brackets, may hold spaces
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def machine(*packages: str) -> str:
    """Describe the processor, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(models)} × {models[0]}" if models else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{processor}, Python {platform.python_version()}, {versions}"


def write_result(name: str, document: Mapping[str, Any], packages: Sequence[str] = ("torch",)) -> Path:
    """Write `results/<name>.json` with the machine, the date and the seconds that the script took."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    today = datetime.now(UTC).date().isoformat()
    seconds = round(time.monotonic() - STARTED, 1)
    full = {"machine": machine(*packages), "date": today, "script_seconds": seconds, **document}
    path.write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n")
    return path
