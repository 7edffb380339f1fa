"""Messages are standard logging: shown on standard error by commands and functions, above a bar."""

import io
import logging

import pytest

from viewgen.messages import HANDLER, LOGGERS, above, shown
from viewgen.progress import Progress

log = logging.getLogger("viewgen_train.plan")


def test_messages_are_shown_without_a_level_and_only_while_asked_for(capsys):
    log.info("before")
    with shown():
        log.info("%d of %d [images]", 3, 4)
        log.debug("a detail")
    log.info("after")
    assert capsys.readouterr() == ("", "3 of 4 [images]\n")
    assert not any(HANDLER in logging.getLogger(name).handlers for name in LOGGERS)


def test_quiet_keeps_warnings(capsys):
    with shown(), shown(quiet=True):
        log.info("nobody hears this")
        log.warning("everybody this")
    with shown():
        log.info("and this")
    assert capsys.readouterr().err == "everybody this\nand this\n"


def test_an_application_gets_records_of_the_modules(caplog):
    with caplog.at_level("INFO", "viewgen_train"):
        Progress(logger="viewgen_train.loop").say("100 % done")
        Progress(logger="viewgen_train.loop", quiet=True).say("more")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("viewgen_train.loop", "100 % done"),
        ("viewgen_train.loop", "more"),
    ]


def test_lines_of_a_command_are_messages(capsys):
    Progress().say("[once]")
    Progress(quiet=True).say("never")
    assert capsys.readouterr() == ("", "[once]\n")


def test_above_a_bar(capsys):
    lines: list[str] = []
    with shown(), above(lines.append):
        log.info("above")
    with shown():
        log.info("below")
    assert (lines, capsys.readouterr().err) == (["above"], "below\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminals_bar_takes_messages(monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)
    with shown(), Progress().bar("training", 2, unit="steps") as bar:
        log.info("on the way")
        bar.advance(2)
    text = stream.getvalue()
    assert "on the way\n" in text.replace("\x1b[2K", "")
    assert "2 of 2 steps" in text


def test_threads_that_overlap_leave_no_trace():
    """Whoever comes first may leave first."""
    logs = [logging.getLogger(name) for name in LOGGERS]
    before = [(log.level, list(log.handlers)) for log in logs]
    first, second = shown(), shown(quiet=True)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert all(log.handlers.count(HANDLER) == 1 for log in logs), "the second still shows"
    second.__exit__(None, None, None)
    assert [(log.level, list(log.handlers)) for log in logs] == before
    assert HANDLER.num_quiet == 0
