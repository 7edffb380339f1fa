"""How an image fared."""

from enum import IntEnum

__all__ = ["Status"]


class Status(IntEnum):
    """How an image fared; the numbers are those of the cache format."""

    ABSENT, OK, NOT_CONVERGED, FAILED = range(4)
