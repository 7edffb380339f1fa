"""A view method for tests: its views follow from a formula, and a file tells it which faults to commit.

The file named by VIEWGEN_TEST_FAULTS is JSON, read anew for every call, so that a test can change it between
runs without changing the cache's configuration::

    {"raise": [3], "segfault": [70], "hang": [], "exit": [], "failed": [], "late": [], "seconds": 0.1}

Lists hold source indices; "seconds" is slept in every call. "once": DIR has "exit" and "hang" happen only
once. "disk_full" has every later write of this process fail, "build": TEXT the setting-up of a worker.
"memory" has an allocation fail, "killed" is the kernel's answer to too many of them.

Where VIEWGEN_TEST_DEATHS names a folder, "die_at": {"commits/00000003.json": "half"} ends the process at the
write of that object: "before" it, with "half" of it in its temporary file, or "after" it. Each happens once
and leaves a file there.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewgen.settings import Settings, setting
from viewgen.views import VIEWS
from viewgen.views.entry import Resources, ViewEntry
from viewgen.views.source import Images, Views

FAULTS = "VIEWGEN_TEST_FAULTS"


class FaultyConfig(Settings):
    """`sigma` stands for any setting."""

    title = "faulty"

    sigma: float = setting(0.25, "any number", ge=0, flag=True)


def expected_views(images: np.ndarray, source_index: np.ndarray, num_views: int, seed: int) -> np.ndarray:
    """Return what the method makes: every pixel plus a number that depends on image, view and seed."""
    offset = (source_index[:, None] * 7 + np.arange(num_views) * 31 + seed * 13) % 256
    return (images[:, None] + offset[:, :, None, None, None]).astype(np.uint8)


class FaultySource:
    """Commits the faults that the file asks for, and then makes its views."""

    roles = ("view",)

    def __init__(self, config: FaultyConfig) -> None:
        self.config = config

    def views(self, images: Images, num_views: int) -> Views:
        source = images.source_index.numpy()
        faults = _faults()
        _sleep()
        if faults.get("disk_full"):
            os.fsync = _no_space
        elif os.fsync is _no_space:
            os.fsync = _fsync
        for kind, act in ENDS.items():
            for index in set(faults.get(kind, ())) & set(source.tolist()):
                if not _done_once(faults, kind, index):
                    act()
        if bad := sorted(set(faults.get("raise", ())) & set(source.tolist())):
            raise ValueError(f"bad samples {bad}")
        status = np.ones(len(source), np.uint8)
        status[np.isin(source, faults.get("late", []))] = 2
        status[np.isin(source, faults.get("failed", []))] = 3
        views = expected_views(images.pixels.numpy(), source, num_views, images.draws.seed)
        return Views(
            pixels=torch.from_numpy(views).transpose(0, 1),
            status=torch.from_numpy(status),
            columns={
                "distance": torch.full((len(source), num_views), self.config.sigma),
                "steps": torch.full((len(source),), 5),
                "inversion_error": torch.zeros(len(source)),
                "mean_pairwise": torch.full((len(source),), 0.5),
            },
        )


def build_faulty(config: FaultyConfig, resources: Resources) -> FaultySource:
    if "build" in _faults():
        raise RuntimeError(_faults()["build"])
    return FaultySource(config)


def _faults() -> dict[str, Any]:
    path = os.environ.get(FAULTS)
    # a file that is being replaced is empty for a moment
    return json.loads(Path(path).read_text() or "{}") if path and Path(path).exists() else {}


def _sleep() -> None:
    """Sleep for "seconds", or until the file asks for less."""
    start = time.monotonic()
    while time.monotonic() - start < _faults().get("seconds", 0.0):
        time.sleep(0.02)


def _done_once(faults: dict[str, Any], kind: str, index: int) -> bool:
    if "once" not in faults or kind == "segfault":
        return False
    mark = Path(faults["once"]) / f"{kind}-{index}"
    if mark.exists():
        return True
    mark.touch()
    return False


def _allocate_too_much() -> None:
    """Allocate more than this process may have, for a moment."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, limits[1]))
    try:
        np.ones(2**30, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_fsync = os.fsync


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _segfault() -> None:
    ctypes.string_at(0)


def _exit() -> None:
    os._exit(7)


def _hang() -> None:
    time.sleep(3600)


ENDS = {
    "segfault": _segfault,
    "exit": _exit,
    "hang": _hang,
    "memory": _allocate_too_much,
    "killed": _kill,
}


def _die_at_writes(marks: Path) -> None:
    """Let this process die at the writes that the file of faults names."""
    from viewgen.store import storage

    write = storage.write_atomically

    def mortal(target: Path, data: bytes, **options: bool) -> None:
        deaths = _faults().get("die_at", {})
        name = next((name for name in deaths if str(target).endswith(f"/{name}")), None)
        mark = marks / (name or "").replace("/", "_")
        if name is None or mark.exists():
            write(target, data, **options)
            return
        mark.touch()
        if deaths[name] == "half":
            target.parent.mkdir(parents=True, exist_ok=True)
            torn = target.with_name(f".{target.name}.{os.getpid()}.torn.viewgen-tmp")
            torn.write_bytes(data[: len(data) // 2])
        elif deaths[name] == "after":
            write(target, data, **options)
        _kill()

    storage.write_atomically = mortal  # type: ignore[assignment]


if "VIEWGEN_TEST_DEATHS" in os.environ:
    _die_at_writes(Path(os.environ["VIEWGEN_TEST_DEATHS"]))

if "faulty" not in VIEWS:
    VIEWS.register(ViewEntry(name="faulty", summary="for tests", settings=FaultyConfig, build=build_faulty))
