"""How far the pairs of a run are: one bar on a terminal, plain lines elsewhere, all on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from viewgen_pipelines.one_bar import SECONDS_BETWEEN_LINES, OneBar, left_text

__all__ = ["PairProgress"]


class PairProgress(OneBar):
    """Progress of one run, in updates of all its networks."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        super().__init__(stream, quiet=quiet)
        self._titles: list[str] = []
        self._steps: dict[int, int] = {}
        self._done: set[int] = set()
        self._num_steps = 1
        self._start = self._last_line = 0.0

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
        total = len(titles) * num_steps
        with self._shown(*columns, description="mi", total=total, pairs=self._pairs_text()):
            yield

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
        if self._update(completed=completed, pairs=self._pairs_text()):
            return
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES or not completed:
            return
        self._last_line = now
        total = len(self._titles) * self._num_steps
        left = left_text((total - completed) * (now - self._start) / completed)
        self.say(f"mi: {100 * completed // total} %, {self._pairs_text()}, {left}")
