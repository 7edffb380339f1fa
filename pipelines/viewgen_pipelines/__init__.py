"""Shard-wise execution of view generation: steps, executors, leases and ledgers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewgen_pipelines.caching import cache
    from viewgen_pipelines.inspecting import inspect
    from viewgen_pipelines.mutual_information import MIResult, mi
    from viewgen_pipelines.report import CacheResult

__all__ = ["CacheResult", "MIResult", "cache", "inspect", "mi"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for: torch, which they need, takes seconds."""
    if name == "cache":
        from viewgen_pipelines.caching import cache

        return cache
    if name == "inspect":
        from viewgen_pipelines.inspecting import inspect

        return inspect
    if name in ("MIResult", "mi"):
        from viewgen_pipelines import mutual_information

        return getattr(mutual_information, name)
    if name == "CacheResult":
        from viewgen_pipelines.report import CacheResult

        return CacheResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
