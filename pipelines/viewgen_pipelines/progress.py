"""How far a run is: one bar on a terminal, plain lines elsewhere, all on standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from viewgen.store import CacheSpec

__all__ = ["Progress"]

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress of one run over one or more stages.

    Args:
        stream: where to; standard error by default.
        quiet: say nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._console = Console(file=stream or sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._num_views = 1
        self._total = self._done = self._new = 0
        self._start = self._last_line = 0.0

    def say(self, line: str) -> None:
        """Print one line (above the bar, where there is one)."""
        console = self._console if self._bar is None else self._bar.console
        console.print(line, markup=False)

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
        # standard output stays as it is: it may be the one that keeps Ray's messages out
        with RichProgress(
            *columns, console=self._console, redirect_stdout=False, redirect_stderr=False
        ) as self._bar:
            self._task = self._bar.add_task(title, total=self._total, completed=num_done, rate="")
            try:
                yield
            finally:
                bar, self._bar = self._bar, None
                bar.refresh()

    def advance(self, num_images: int) -> None:
        """Count images as done."""
        self._done += num_images
        self._new += num_images
        now = time.monotonic()
        rate = self._new * self._num_views / max(now - self._start, 1e-9)
        text = f"{rate:.3g} views/s" if rate < 1000 else f"{rate:,.0f} views/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=text)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._last_line = now
            left = (self._total - self._done) * (now - self._start) / max(self._new, 1)
            minutes, seconds = divmod(round(left), 60)
            ending = "" if self._done == self._total else f", {minutes}:{seconds:02d} left"
            self.say(f"{self._title}: {self._done} of {self._total} images, {text}{ending}")
