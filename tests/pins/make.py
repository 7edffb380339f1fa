"""Makes the golden files of a version: ``python tests/pins/make.py``.

Golden files that exist are never made again: they are what that version wrote, and the script refuses to
touch them. A new version of a format adds a folder of its own (`pinned.GOLDEN`) and its own JSON files.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pinned
import reach

# the parts of a run that matter to later versions; pictures and TensorBoard's events are for people
RUN_FILES = (
    "config.json",
    "identity.json",
    "metrics.csv",
    "checkpoint.pt",
    "last.safetensors",
    "best.safetensors",
)


def main() -> None:
    if pinned.GOLDEN.exists():
        raise SystemExit(f"{pinned.GOLDEN} exists; golden files are never made again")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "golden").mkdir()
        pinned.GOLDEN = folder / "golden"
        reach.save_networks(folder / "golden" / "networks")
        with pinned.workplace(folder / "work") as work:
            make_caches(work)
            make_runs(work)
            write_json(work)
        keep(folder / "work", Path(__file__).parents[1] / "golden" / "v0.1.0")


def make_caches(work: Path) -> None:
    """Make the caches of every method, the golden inversions first, and one that is killed on the way."""
    pinned.done(f"{pinned.METHODS['invert']} --out inversions.zarr")
    (work / "methods").mkdir()
    for name in pinned.METHODS:
        np.savez_compressed(work / "methods" / f"{name}.npz", **pinned.make_views(name))
    pinned.done(pinned.CACHE)
    killed(pinned.INCOMPLETE, lambda: (work / "incomplete.zarr/commits/00000000.json").exists())
    assert len(list((work / "incomplete.zarr/commits").iterdir())) < 3


def make_runs(work: Path) -> None:
    """Make the golden trainings: one that is finished and evaluated, one that is killed on the way."""
    pinned.done(pinned.FINISHED)
    pinned.done(pinned.EVALUATION)

    def far_enough() -> bool:
        path = work / "runs/unfinished/metrics.csv"
        return path.exists() and len(path.read_text().splitlines()) > pinned.NUM_STEPS // 2

    killed(f"{pinned.UNFINISHED} --checkpoint-seconds 0", far_enough)


def killed(words: str, when: Callable[[], bool]) -> None:
    """Run a command in a process of its own and kill it as soon as `when` says so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "viewgen", *words.split()],
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while not when():
        assert process.poll() is None, "it ended by itself"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def write_json(work: Path) -> None:
    """Write what is compared and is no file of a cache or a run."""
    curves = {name: pinned.losses(pinned.run_training(name)) for name in pinned.CURVES}
    objectives = {name: pinned.losses(pinned.run_training(name)) for name in pinned.OBJECTIVES}
    write("curves", {"curves": curves, "objectives": objectives})
    identities: dict[str, Any] = {}
    for name, words in pinned.CACHE_IDENTITIES.items():
        document = reach.cache_document(words)
        identities[name] = {"identity": document["attributes"]["viewgen"]["identity"], "zarr.json": document}
    made = {name: pinned.cache_identity(f"{name}.zarr") for name in (*pinned.METHODS, "inversions", "cache")}
    runs = {name: reach.run_identity(words) for name, words in pinned.RUN_IDENTITIES.items()}
    for name in pinned.OBJECTIVES:
        runs[name] = json.loads(Path("runs", name, "identity.json").read_text())
    write("identities", {"planned": identities, "made": made, "runs": runs})


def write(name: str, document: Any) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (pinned.PINS / f"{name}.json").write_text(text, encoding="utf-8")


def keep(work: Path, golden: Path) -> None:
    """Copy what is kept; what names this machine or its folders is left out or made relative."""
    for name in ("networks", "methods", "inversions.zarr", "cache.zarr", "incomplete.zarr"):
        shutil.copytree(work / name, golden / name, ignore=shutil.ignore_patterns("lease*", ".*"))
    for marker in golden.rglob("run/attempts/*.json"):
        # of a process that has gone, on a machine that is not this one
        document = json.loads(marker.read_text())
        document["worker"] |= {"host": "elsewhere", "pid": 1, "process_start": "1"}
        marker.write_text(json.dumps(document))
    for name in ("finished", "unfinished"):
        source, target = work / "runs" / name, golden / "runs" / name
        target.mkdir(parents=True)
        for file in (*RUN_FILES, "evaluation.json"):
            if (source / file).exists():
                shutil.copy(source / file, target / file)
        config = target / "config.json"
        config.write_text(config.read_text().replace(f"{work}/", ""))
    for path in golden.rglob("*"):
        if path.is_file():
            assert str(work).encode() not in path.read_bytes(), f"{path} names a folder of this machine"
        if path.suffix in (".json", ".csv"):
            assert os.uname().nodename not in path.read_text(), f"{path} names this machine"


if __name__ == "__main__":
    main()
