"""Views of a cache in Ray Data: `viewgen.ray.read_views`."""

from importlib import import_module
from typing import Any

__all__ = ["read_views"]  # noqa: F822 found by __getattr__

_FRONT_DOOR = {"read_views": "viewgen_pipelines.ray_data"}


def __getattr__(name: str) -> Any:
    """Return a function of this door, imported when it is asked for."""
    if name not in _FRONT_DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FRONT_DOOR[name]), name)
