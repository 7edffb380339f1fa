"""How far a run is: one bar on a terminal, plain lines elsewhere, all on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from viewgen.store import CacheSpec
from viewgen_pipelines.one_bar import SECONDS_BETWEEN_LINES, OneBar, left_text

__all__ = ["Progress"]


class Progress(OneBar):
    """Progress of one run over one or more stages."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        super().__init__(stream, quiet=quiet)
        self._title = ""
        self._num_views = 1
        self._total = self._done = self._new = 0
        self._start = self._last_line = 0.0

    @contextmanager
    def stage(self, title: str, spec: CacheSpec, num_done: int) -> Iterator[None]:
        """Show one stage: `num_done` of the cache's images are there already."""
        self._title, self._num_views = title, spec.num_views
        self._total, self._done, self._new = spec.num_images, num_done, 0
        self._start = time.monotonic()
        self._last_line = self._start
        if not self._console.is_terminal or self._done == self._total:
            if self._done < self._total:
                self.say(f"{title}: {self._done} of {self._total} images there")
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images  {task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with self._shown(*columns, description=title, total=self._total, completed=num_done, rate=""):
            yield

    def advance(self, num_images: int) -> None:
        """Count images as done."""
        self._done += num_images
        self._new += num_images
        now = time.monotonic()
        rate = self._new * self._num_views / max(now - self._start, 1e-9)
        text = f"{rate:.3g} views/s" if rate < 1000 else f"{rate:,.0f} views/s"
        if self._update(completed=self._done, rate=text):
            return
        if now - self._last_line >= SECONDS_BETWEEN_LINES or self._done == self._total:
            self._last_line = now
            left = (self._total - self._done) * (now - self._start) / max(self._new, 1)
            ending = "" if self._done == self._total else f", {left_text(left)}"
            self.say(f"{self._title}: {self._done} of {self._total} images, {text}{ending}")
