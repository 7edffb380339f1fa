"""Caches and weights at other places: a bucket, a server, a hub."""

from viewgen.sharing.command import Shared, pull, push

__all__ = ["Shared", "pull", "push"]
