"""Package versions and hardware that made a cache, for the record; not part of its identity."""

import platform
from importlib import metadata
from typing import Any

__all__ = ["versions"]

_PACKAGES = ("viewgen", "torch", "numpy", "ray", "zarr")


def versions() -> dict[str, Any]:
    """Return package → version, and the platform of this process.

    ``"instructions"`` are those that torch computes with, such as ``"AVX512"``: on a processor with others
    the same training ends with other weights.
    """
    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
