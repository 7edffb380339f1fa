"""Messages to the user: standard `logging`, shown on standard error.

Modules log to a logger of their own name. The command line shows these messages from level INFO on, and so
does a Python function that was not asked to be quiet. An application that configures logging itself gets
them as records.
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from viewgen.terminal import plain

__all__ = ["LOGGERS", "MessageHandler", "above", "shown"]

LOGGERS = ("viewgen", "viewgen_pipelines", "viewgen_train", "viewgen_pretrained")
"""Loggers whose children's messages are shown."""


class MessageHandler(logging.Handler):
    """Writes messages to standard error, above the progress bar if there is one.

    Attributes:
        num_quiet: number of contexts that suppress messages below warnings.
        print_above: function that prints a line above the bar, or None without a bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_quiet = 0
        self.print_above: Callable[[str], object] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, without a time or a level."""
        if self.num_quiet and record.levelno < logging.WARNING:
            return
        if self.print_above is not None:
            self.print_above(self.format(record))
        else:
            print(plain(self.format(record)), file=sys.stderr, flush=True)


HANDLER = MessageHandler()


class _Showing:
    """Who shows messages at the moment: threads come and go in any order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.levels: list[tuple[logging.Logger, int]] = []

    def enter(self, quiet: bool) -> None:
        with self.lock:
            HANDLER.num_quiet += quiet
            self.count += 1
            if self.count == 1:
                self.levels = [(log, log.level) for log in map(logging.getLogger, LOGGERS)]
                for log, level in self.levels:
                    log.addHandler(HANDLER)
                    log.setLevel(level or logging.INFO)

    def leave(self, quiet: bool) -> None:
        with self.lock:
            HANDLER.num_quiet -= quiet
            self.count -= 1
            if self.count == 0:
                for log, level in self.levels:
                    log.removeHandler(HANDLER)
                    log.setLevel(level)


_SHOWING = _Showing()


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[None]:
    """Show messages while the context lasts; with `quiet`, only warnings and errors."""
    _SHOWING.enter(quiet)
    try:
        yield
    finally:
        _SHOWING.leave(quiet)


@contextmanager
def above(print_line: Callable[[str], object]) -> Iterator[None]:
    """Print messages by a function, above a progress bar, while the context lasts."""
    before, HANDLER.print_above = HANDLER.print_above, print_line
    try:
        yield
    finally:
        HANDLER.print_above = before
