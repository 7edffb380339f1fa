"""Timing of contenders in turn, and result files.

Every round times each contender once, one after the other, so that a busy machine slows all of them alike.
Ratios are taken within a round and given by their median, 10th and 90th percentile.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["interleave", "machine", "ratio", "write_result"]

RESULTS = Path(__file__).parent / "results"


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


def machine(*packages: str) -> str:
    """Describe the processor, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(models)} × {models[0]}" if models else platform.processor()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{processor}, Python {platform.python_version()}, {versions}"


def write_result(name: str, document: Mapping[str, Any], packages: Sequence[str] = ("torch",)) -> Path:
    """Write `results/<name>.json` with the machine and the date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    today = datetime.now(UTC).date().isoformat()
    full = {"machine": machine(*packages), "date": today, **document}
    path.write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n")
    return path
