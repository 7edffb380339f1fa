"""Hardware of a process: the device by name, and the cores."""

import os

from viewgen.errors import UsageError

__all__ = ["available_cores", "available_threads", "resolve_device"]


def resolve_device(name: str = "auto") -> str:
    """Return the torch device called `name`; ``"auto"`` is a GPU where there is one.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …

    Raises:
        UsageError: there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used: {error}") from error
    return name


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_threads() -> int:
    """Return how many threads a process that works alone takes: OMP_NUM_THREADS, or one per core."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else available_cores()
