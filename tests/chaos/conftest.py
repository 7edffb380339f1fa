"""Prints the tally of the long campaign."""

import time
from collections.abc import Callable

import pytest

STARTED = time.monotonic()


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[object], None]:
    """Return a function that adds a line to what is printed of this test at the end."""

    def add(line: object) -> None:
        record_property("tally", line)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if "chaos" not in config.getoption("-m"):
        return
    terminalreporter.section("tally")
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            if (outcome == "skipped" and report.when == "setup") or report.when == "call":
                name = report.nodeid.rpartition("/")[2]
                terminalreporter.line(f"{outcome} {name} ({report.duration:.0f} s)")
                for kind, line in report.user_properties:
                    if kind == "tally":
                        terminalreporter.line(f"    {line}")
    terminalreporter.line(f"{(time.monotonic() - STARTED) / 60:.0f} minutes")
