"""One bar on a terminal with lines above it, plain lines elsewhere, all on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID

__all__ = ["SECONDS_BETWEEN_LINES", "OneBar", "left_text"]

SECONDS_BETWEEN_LINES = 10.0


class OneBar:
    """What the progress of any run is shown by.

    Args:
        stream: where to; standard error by default.
        quiet: say nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._console = Console(file=stream or sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        """Print one line (above the bar, where there is one)."""
        console = self._console if self._bar is None else self._bar.console
        console.print(line, markup=False)

    @contextmanager
    def _shown(self, *columns: ProgressColumn, description: str, **task: Any) -> Iterator[None]:
        """Show the bar; `task` are its total, the completed part, and the fields of its columns."""
        # standard output stays as it is: it may be the one that keeps Ray's messages out
        with Progress(
            *columns, console=self._console, redirect_stdout=False, redirect_stderr=False
        ) as self._bar:
            self._task = self._bar.add_task(description, **task)
            try:
                yield
            finally:
                bar, self._bar = self._bar, None
                bar.refresh()

    def _update(self, **changes: Any) -> bool:
        """Change the bar, and return whether there is one."""
        if self._bar is None or self._task is None:
            return False
        self._bar.update(self._task, **changes)
        return True


def left_text(seconds: float) -> str:
    """Return ``"3:07 left"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"
