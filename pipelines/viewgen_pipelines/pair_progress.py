"""How far the pairs of a run are: one bar on a terminal, plain lines elsewhere, all on standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["PairProgress"]

_SECONDS_BETWEEN_LINES = 10.0


class PairProgress:
    """Progress of one run, in updates of all its networks.

    Args:
        stream: where to; standard error by default.
        quiet: say nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._console = Console(file=stream or sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._titles: list[str] = []
        self._steps: dict[int, int] = {}
        self._done: set[int] = set()
        self._num_steps = 1
        self._start = self._last_line = 0.0

    def say(self, line: str) -> None:
        """Print one line (above the bar, where there is one)."""
        console = self._console if self._bar is None else self._bar.console
        console.print(line, markup=False)

    @contextmanager
    def pairs(self, titles: list[str], num_steps: int) -> Iterator[None]:
        """Show the pairs of these titles, each of `num_steps` updates."""
        self._titles, self._num_steps = titles, num_steps
        self._steps, self._done = {}, set()
        self._start = self._last_line = time.monotonic()
        if not self._console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pairs]}"),
            TimeRemainingColumn(),
        )
        # standard output stays as it is: it may be the one that keeps Ray's messages out
        with RichProgress(
            *columns, console=self._console, redirect_stdout=False, redirect_stderr=False
        ) as self._bar:
            total = len(titles) * num_steps
            self._task = self._bar.add_task("mi", total=total, pairs=self._pairs_text())
            try:
                yield
            finally:
                bar, self._bar = self._bar, None
                bar.refresh()

    def step(self, number: int, step: int) -> None:
        """Note how far a pair is."""
        self._steps[number] = step
        self._show()

    def done(self, number: int) -> None:
        """Note that a pair is finished."""
        self._steps[number] = self._num_steps
        self._done.add(number)
        if self._bar is None:
            seconds = time.monotonic() - self._start
            self.say(f"({self._titles[number]}) measured, {self._pairs_text()}, {seconds:.0f} s")
            self._last_line = time.monotonic()
        self._show()

    def _pairs_text(self) -> str:
        return f"{len(self._done)} of {len(self._titles)} pairs"

    def _show(self) -> None:
        completed = sum(self._steps.values())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=completed, pairs=self._pairs_text())
            return
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES or not completed:
            return
        self._last_line = now
        total = len(self._titles) * self._num_steps
        minutes, seconds = divmod(round((total - completed) * (now - self._start) / completed), 60)
        self.say(f"mi: {100 * completed // total} %, {self._pairs_text()}, {minutes}:{seconds:02d} left")
