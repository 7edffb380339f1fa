"""Limits of what reading a hostile file may take."""

import resource
import time

__all__ = ["Bounded"]

SECONDS, MEGABYTES = 2.0, 300


class Bounded:
    """Fails if what it holds takes more time or memory than reading a file may."""

    def __enter__(self) -> None:
        self.time = time.process_time()
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def __exit__(self, *_: object) -> None:
        assert time.process_time() - self.time < SECONDS
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.peak
        assert grown < MEGABYTES * 1024, f"{grown / 1024:.0f} MB"
