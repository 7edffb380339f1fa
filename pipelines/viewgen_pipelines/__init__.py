"""Shard-wise execution of view generation: steps, executors, leases and ledgers."""

from viewgen_pipelines.cache import cache
from viewgen_pipelines.report import CacheResult

__all__ = ["CacheResult", "cache"]
