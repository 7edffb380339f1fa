"""Progress on standard error: messages of `logging`, and one bar on a terminal.

Without a terminal a bar becomes a line with rate and remaining time, at most every ten seconds while there is
progress, and at least every thirty, so that a log shows what goes on.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, TextIO

from viewgen.messages import above, shown

__all__ = ["Bar", "Progress", "ToldProgress", "duration_text"]

SECONDS_BETWEEN_LINES = 10.0
# a bar without a line in such a time gets one, whether it has moved or not
HEARTBEAT_SECONDS = 15.0
# of the work, before which nothing is said about the time that is left
MIN_SHARE = 0.005
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Progress:
    """Progress output of a command.

    Args:
        stream: output stream; standard error by default.
        quiet: suppress all output.
        logger: name of the logger of lines.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, logger: str = "viewgen.progress"
    ) -> None:
        from viewgen.terminal import console

        self._log = None if stream is not None else logging.getLogger(logger)
        self._quiet = quiet
        self._console = console(file=stream or sys.stderr, quiet=quiet, soft_wrap=True)
        self._shown: Any = None

    @property
    def is_terminal(self) -> bool:
        """True if bars are drawn."""
        return self._console.is_terminal and not self._console.quiet

    def say(self, line: str) -> None:
        """Log one line as a message, which is shown above the bar if there is one."""
        if self._log is None:
            self._print(line)
            return
        with shown(quiet=self._quiet):
            self._log.info("%s", line)

    def _print(self, line: str) -> None:
        bar = self._shown  # another thread may end it meanwhile
        (self._console if bar is None else bar.console).print(line)

    @contextmanager
    def bar(
        self,
        title: str,
        total: float,
        *,
        done: float = 0,
        unit: str = "",
        rate: str = "",
        per_unit: float = 1.0,
        brief: bool = False,
    ) -> Iterator["Bar"]:
        """Show a task until the context ends; one task at a time.

        Args:
            title: name of the task.
            total: amount of work.
            done: amount that is done already and does not count for the rate.
            unit: unit of the amount, for example ``"images"``; ``"B"`` shows sizes, ``"%"`` shares.
            rate: unit of the rate, by default `unit`; an empty string where `unit` is ``"%"``.
            per_unit: number of rate units per `unit`.
            brief: remove the bar when the task is done; without a terminal, print no line for a task of less
                than ten seconds.
        """
        bar = Bar(self, title, total, done, unit, rate or ("" if unit == "%" else unit), per_unit, brief)
        if not self.is_terminal or done >= total:
            if not brief and done < total:
                self.say(f"{title}: {bar.count} there")
            with nullcontext() if self._quiet or done >= total else _heartbeat(bar):
                yield bar
            return
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[count]}  {task.fields[text]}", markup=False),
            rich.TimeRemainingColumn(),
        )
        # standard output stays as it is: it may be the one that keeps Ray's messages out
        display = rich.Progress(
            *columns,
            console=self._console,
            transient=brief,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with display as self._shown, above(self._print):
            bar.row = self._shown.add_task(title, total=total, completed=done, count=bar.count, text="")
            try:
                yield bar
            finally:
                shown, self._shown = self._shown, None
                shown.refresh()

    @contextmanager
    def steps(self) -> Iterator[Callable[[str, int, int], None]]:
        """Yield a callback with the arguments (task, amount done, total) that shows a brief bar per task."""
        with ExitStack() as shown:
            current: list[Bar] = []

            def tell(what: str, done: int, total: int) -> None:
                if not current or current[0].title != what:
                    shown.close()
                    current[:] = [shown.enter_context(self.bar(what, total, brief=True))]
                current[0].update(done)

            yield tell

    def draw(self, bar: "Bar") -> bool:
        """Update a bar, and return True if it is drawn."""
        if self._shown is None:
            return False
        text = "  ".join(part for part in (bar.rate_text, bar.note) if part)
        self._shown.update(bar.row, completed=bar.done, count=bar.count, text=text)
        return True


class ToldProgress(Progress):
    """Progress of a task that is part of a larger one: silent, its shares go to a function.

    Args:
        tell: callback with (title of the bar, share of it that is done, 0 to 1).
    """

    def __init__(self, tell: Callable[[str, float], object]) -> None:
        super().__init__(quiet=True)
        self._tell = tell

    def draw(self, bar: "Bar") -> bool:
        """Tell the share, in place of drawing."""
        self._tell(bar.title, min(1.0, bar.done / max(bar.total, 1e-9)))
        return True


@contextmanager
def _heartbeat(bar: "Bar") -> Iterator[None]:
    """Print a bar's line from time to time while its task is silent."""
    ended = threading.Event()

    def beat() -> None:
        before = bar.num_lines
        while not ended.wait(HEARTBEAT_SECONDS):
            if bar.num_lines == before and bar.done < bar.total:
                bar.line()
            before = bar.num_lines

    thread = threading.Thread(target=beat, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Bar:
    """A displayed task, created by `Progress.bar`.

    Attributes:
        title: name of the task.
        total: amount of work.
        done: amount that is done.
        note: further text, for example a loss.
        row: place among the rows of a terminal's display.
        num_lines: lines that were printed.
    """

    def __init__(
        self,
        progress: Progress,
        title: str,
        total: float,
        done: float,
        unit: str,
        rate: str,
        per_unit: float,
        brief: bool,
    ) -> None:
        self.title, self.total, self.done, self.note = title, total, done, ""
        self.row: Any = None
        self.num_lines = 0
        self._progress, self._unit, self._rate, self._per_unit = progress, unit, rate, per_unit
        self._first, self._is_silent = done, brief
        self._start = self._last_line = time.monotonic()

    def update(self, done: float, note: str | None = None) -> None:
        """Set the amount that is done to `done`."""
        finishes = self.done < self.total <= done
        self.done = done
        self.note = self.note if note is None else note
        if self._progress.draw(self):
            return
        overdue = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES
        if done > self._first and (overdue or (finishes and not self._is_silent)):
            self.line()

    def advance(self, amount: float, note: str | None = None) -> None:
        """Add `amount` to the amount that is done."""
        self.update(self.done + amount, note)

    def line(self) -> None:
        """Print the state of the task as a line, regardless of the last output."""
        self._last_line, self._is_silent = time.monotonic(), False
        self.num_lines += 1
        share = (self.done - self._first) / max(self.total - self._first, 1e-9)
        left = left_text(self.seconds_left) if MIN_SHARE <= share < 1 else ""
        parts = (self.count, self.note, self.rate_text, left)
        self._progress.say(f"{self.title}: " + ", ".join(part for part in parts if part))

    @property
    def seconds(self) -> float:
        """Seconds since the start of the display."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until the task is done, at the average rate so far."""
        return (self.total - self.done) * self.seconds / max(self.done - self._first, 1e-9)

    @property
    def count(self) -> str:
        """Text of the amount done and the total."""
        if self._unit == "%":
            return f"{100 * self.done / max(self.total, 1e-9):.0f} %"
        if self._unit == "B":
            return f"{size_text(self.done)} of {size_text(self.total)}"
        return f"{self.done:.0f} of {self.total:.0f} {self._unit}".rstrip()

    @property
    def rate_text(self) -> str:
        """Text of the rate; an empty string before the start."""
        if not self._rate or self.done == self._first:
            return ""
        rate = (self.done - self._first) * self._per_unit / max(self.seconds, 1e-9)
        if self._rate == "B":
            return f"{size_text(rate)}/s"
        return f"{rate:.3g} {self._rate}/s" if rate < 1000 else f"{rate:,.0f} {self._rate}/s"


def size_text(num_bytes: float) -> str:
    """Return ``"1.5 MB"``."""
    for size, name in SIZES:
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {name}"
    return f"{num_bytes:.0f} bytes"


def left_text(seconds: float) -> str:
    """Return ``"3:07 left"``, or with hours ``"1:03:07 left"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, below = divmod(minutes, 60)
    return f"{hours}:{below:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"


def duration_text(seconds: float) -> str:
    """Return ``"3 min"``, with a unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"
