"""Progress of work on standard error: lines, and one bar on a terminal; without one, a line now and then.

Without a terminal a bar becomes a line with rate and time left at most every ten seconds, so that a log shows
that the work goes on.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

__all__ = ["Bar", "Progress"]

SECONDS_BETWEEN_LINES = 10.0
SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Progress:
    """What a command tells of its work.

    Args:
        stream: where to; standard error by default.
        quiet: say nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(file=stream or sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self._shown: Any = None

    @property
    def is_terminal(self) -> bool:
        """Whether bars are drawn."""
        return self._console.is_terminal and not self._console.quiet

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        console = self._console if self._shown is None else self._shown.console
        console.print(line, markup=False)

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
        """Show a task until the context ends; one at a time.

        Args:
            title: name of the task.
            total: amount of work.
            done: part of it that is done already, without counting for the rate.
            unit: what is counted, for example ``"images"``; ``"B"`` shows sizes, ``"%"`` shares.
            rate: what the rate counts, `unit` unless given; an empty string where `unit` is ``"%"``.
            per_unit: so many of those make one of `unit`.
            brief: the bar goes away when the task is done, and without a terminal a task of less than ten
                seconds leaves no line.
        """
        bar = Bar(self, title, total, done, unit, rate or ("" if unit == "%" else unit), per_unit, brief)
        if not self.is_terminal or done >= total:
            if not brief and done < total:
                self.say(f"{title}: {bar.count} there")
            yield bar
            return
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[count]}  {task.fields[text]}"),
            rich.TimeRemainingColumn(),
        )
        # standard output stays as it is: it may be the one that keeps Ray's messages out
        with rich.Progress(
            *columns,
            console=self._console,
            transient=brief,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as self._shown:
            bar.row = self._shown.add_task(title, total=total, completed=done, count=bar.count, text="")
            try:
                yield bar
            finally:
                shown, self._shown = self._shown, None
                shown.refresh()

    @contextmanager
    def steps(self) -> Iterator[Callable[[str, int, int], None]]:
        """Yield a function to tell (what is done, how much of it, of how much): a brief bar for each."""
        with ExitStack() as shown:
            current: list[Bar] = []

            def tell(what: str, done: int, total: int) -> None:
                if not current or current[0].title != what:
                    shown.close()
                    current[:] = [shown.enter_context(self.bar(what, total, brief=True))]
                current[0].update(done)

            yield tell

    def draw(self, bar: "Bar") -> bool:
        """Bring a bar up to date, and return whether it is drawn."""
        if self._shown is None:
            return False
        text = "  ".join(part for part in (bar.rate_text, bar.note) if part)
        self._shown.update(bar.row, completed=bar.done, count=bar.count, text=text)
        return True


class Bar:
    """A task that is shown, as `Progress.bar` gives it.

    Attributes:
        title: name of the task.
        total, done: amount of work, and how much of it is done.
        note: further words, for example a loss.
        row: place among the rows of a terminal's display.
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
        self._progress, self._unit, self._rate, self._per_unit = progress, unit, rate, per_unit
        self._first, self._is_silent = done, brief
        self._start = self._last_line = time.monotonic()

    def update(self, done: float, note: str | None = None) -> None:
        """Show that `done` of the total is done."""
        finishes = self.done < self.total <= done
        self.done = done
        self.note = self.note if note is None else note
        if self._progress.draw(self):
            return
        overdue = time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES
        if done > self._first and (overdue or (finishes and not self._is_silent)):
            self.line()

    def advance(self, amount: float, note: str | None = None) -> None:
        """Show that `amount` more is done."""
        self.update(self.done + amount, note)

    def line(self) -> None:
        """Print how far the task is as a line, whatever was printed last."""
        self._last_line, self._is_silent = time.monotonic(), False
        left = "" if self.done >= self.total else left_text(self.seconds_left)
        parts = (self.count, self.note, self.rate_text, left)
        self._progress.say(f"{self.title}: " + ", ".join(part for part in parts if part))

    @property
    def seconds(self) -> float:
        """Seconds since the task is shown."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float:
        """Seconds until the task is done, if it goes on as it went."""
        return (self.total - self.done) * self.seconds / max(self.done - self._first, 1e-9)

    @property
    def count(self) -> str:
        """How much of how much is done."""
        if self._unit == "%":
            return f"{100 * self.done / max(self.total, 1e-9):.0f} %"
        if self._unit == "B":
            return f"{size_text(self.done)} of {size_text(self.total)}"
        return f"{self.done:.0f} of {self.total:.0f} {self._unit}".rstrip()

    @property
    def rate_text(self) -> str:
        """How fast the work is done; an empty string before it has begun."""
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
    """Return ``"3:07 left"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"
