"""One bar on a terminal, plain lines elsewhere, nothing when quiet."""

import io
import re

import pytest
from viewgen_pipelines.progress import Progress

from viewgen_pipelines import progress as progress_module


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_seldom_and_say_rate_and_time_left(make_spec, clock):
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.stage("wsearch", make_spec(num_images=100), num_done=20):
        for second in range(1, 81):
            clock[0] = float(second)
            progress.advance(1)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "wsearch: 20 of 100 images there"
    assert lines[1] == "wsearch: 30 of 100 images, 2 views/s, 1:10 left"
    assert lines[-1] == "wsearch: 100 of 100 images, 2 views/s"
    assert len(lines) == 1 + 8


def test_a_terminal_gets_one_bar_and_lines_above_it(make_spec):
    stream = Terminal()
    progress = Progress(stream)
    with progress.stage("wsearch", make_spec(num_images=100), num_done=20):
        progress.advance(30)
        progress.say("shard 3 failed: [not markup]")
        progress.advance(50)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "20/100 images" in text
    assert "100/100 images" in text
    assert "views/s" in text
    assert "shard 3 failed: [not markup]\n" in text
    assert "\x1b[?25h" in stream.getvalue().rpartition("\x1b[?25l")[2], "the cursor is shown again"


def test_a_finished_stage_shows_nothing(make_spec):
    stream = Terminal()
    with Progress(stream).stage("wsearch", make_spec(num_images=100), num_done=100):
        pass
    assert stream.getvalue() == ""


def test_quiet_is_quiet(make_spec):
    stream = io.StringIO()
    progress = Progress(stream, quiet=True)
    with progress.stage("wsearch", make_spec(), num_done=0):
        progress.advance(21)
        progress.say("something")
    assert stream.getvalue() == ""
