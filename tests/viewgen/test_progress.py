"""One bar on a terminal, plain lines elsewhere, nothing when quiet."""

import io
import re
import threading

import pytest

from viewgen import progress as progress_module
from viewgen.progress import Progress, ToldProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def shards(progress, num_done, total=100):
    return progress.bar("wsearch", total, done=num_done, unit="images", rate="views", per_unit=2)


def shown(terminal):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def test_plain_lines_come_seldom_and_say_rate_and_time_left(clock):
    stream = io.StringIO()
    with shards(Progress(stream), 20) as bar:
        for second in range(1, 81):
            clock[0] = float(second)
            bar.advance(1)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "wsearch: 20 of 100 images there"
    assert lines[1] == "wsearch: 30 of 100 images, 2 views/s, 1:10 left"
    assert lines[-1] == "wsearch: 100 of 100 images, 2 views/s"
    assert len(lines) == 1 + 8


@pytest.mark.parametrize("brief", [False, True])
def test_a_task_without_news_says_so(monkeypatch, brief):
    """A log shows a line at least every two intervals, also while one step takes long."""
    monkeypatch.setattr(progress_module, "HEARTBEAT_SECONDS", 0.03)
    stream = io.StringIO()
    with Progress(stream).bar("mi", 4, unit="pairs", brief=brief) as bar:
        threading.Event().wait(0.2)
        bar.done = 1
        threading.Event().wait(0.2)
    lines = stream.getvalue().splitlines()
    assert lines.count("mi: 0 of 4 pairs") >= 2, "and no guess of the time"
    assert any(re.fullmatch(r"mi: 1 of 4 pairs, .* pairs/s, 0:\d\d left", line) for line in lines)
    count = len(lines)
    threading.Event().wait(0.1)
    assert len(stream.getvalue().splitlines()) == count, "it ends with the task"
    quiet = io.StringIO()
    with Progress(quiet, quiet=True).bar("mi", 4):
        threading.Event().wait(0.15)
    assert quiet.getvalue() == ""


def test_a_terminal_gets_one_bar_and_lines_above_it():
    stream = Terminal()
    progress = Progress(stream)
    with shards(progress, 20) as bar:
        bar.advance(30)
        progress.say("shard 3 failed: [not markup]")
        bar.advance(50, "loss 0.25")
    text = shown(stream)
    assert "20 of 100 images" in text
    assert "100 of 100 images" in text
    assert "views/s" in text
    assert "loss 0.25" in text
    assert "shard 3 failed: [not markup]\n" in text
    assert "\x1b[?25h" in stream.getvalue().rpartition("\x1b[?25l")[2], "the cursor is shown again"


def test_a_finished_task_shows_nothing():
    stream = Terminal()
    with shards(Progress(stream), 100):
        pass
    assert stream.getvalue() == ""


def test_quiet_is_quiet():
    for stream in (io.StringIO(), Terminal()):
        progress = Progress(stream, quiet=True)
        with shards(progress, 0) as bar:
            bar.advance(100)
            progress.say("something")
        assert stream.getvalue() == ""


def test_sizes_and_shares_are_said_in_their_units(clock):
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.bar("downloading x", 5_000_000, unit="B") as bar:
        clock[0] = 20.0
        bar.update(2_500_000)
    with progress.bar("mi", 4, unit="%") as bar:
        clock[0] = 40.0
        bar.update(1, "1 of 4 pairs")
    assert stream.getvalue().splitlines() == [
        "downloading x: 0 bytes of 5.0 MB there",
        "downloading x: 2.5 MB of 5.0 MB, 125.0 kB/s, 0:20 left",
        "mi: 0 % there",
        "mi: 25 %, 1 of 4 pairs, 1:00 left",
    ]


def test_a_brief_task_leaves_no_line_unless_it_takes_long(clock):
    stream = io.StringIO()
    with Progress(stream).steps() as tell:
        tell("features", 5, 10)
        tell("features", 10, 10)
        tell("probe", 1, 10)
        clock[0] = 30.0
        tell("probe", 5, 10)
        tell("probe", 10, 10)
    lines = stream.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["probe: 5 of 10", "probe: 10 of 10"]


def test_steps_on_a_terminal_are_one_bar_after_the_other():
    stream = Terminal()
    with Progress(stream).steps() as tell:
        tell("features", 10, 10)
        tell("probe", 3, 10)
    assert "features" in shown(stream)
    assert "probe" in shown(stream)


def test_progress_that_is_part_of_another_goes_to_a_function(capsys):
    told: list[tuple[str, float]] = []
    progress = ToldProgress(lambda what, share: told.append((what, share)))
    progress.say("a line")
    with progress.bar("training", 4, done=1, unit="steps") as bar:
        bar.advance(1)
        bar.update(4)
    assert told == [("training", 0.5), ("training", 1.0)]
    assert not progress.is_terminal
    assert capsys.readouterr().err == ""
