"""Outcome of an image."""

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """Outcome of an image; the numbers are those of the cache format."""

    ABSENT, OK, NOT_CONVERGED, FAILED = range(4)
