"""Package versions and hardware that made a cache, for the record; not part of its identity."""

import platform
from importlib import metadata
from typing import Any

__all__ = ["versions"]

_PACKAGES = ("viewgen", "torch", "numpy", "ray", "zarr")


def versions() -> dict[str, Any]:
    """Return package → version, and the platform of the driver."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
