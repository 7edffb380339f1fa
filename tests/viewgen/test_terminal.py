"""Terminal escapes in names, in all that a command prints."""

import contextlib
import io
import json
import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewgen.cli import cli, main, print_json
from viewgen.progress import Progress
from viewgen.store import open_storage
from viewgen.terminal import Escaped, boundary, console, escaped, json_text

# title, clipboard, clear screen, C1 forms of both, carriage return, backspace, bell, right-to-left marks
EVIL = "a\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x1b\\\x1b[2J\x9b2J\x9d0;t\x9c\r\x08\u202egnp\u2066\u061c\ud800z"
UNSAFE = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0x200F, 0x2028)]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


def safe(text):
    return not any(character in text for character in UNSAFE)


@given(st.text())
def test_nothing_unsafe_is_left_and_all_else_stays(text):
    shown = escaped(text)
    assert safe(shown)
    assert escaped(shown) == shown
    assert "".join(c for c in text if c.isalnum() and c in shown) == "".join(c for c in text if c.isalnum())
    assert json.loads(json_text(json.dumps(text, ensure_ascii=False))) == text


def test_the_characters_are_written_out():
    assert escaped("a\x1b[2Jb\x9bc\u202ed\te\n") == "a\\x1b[2Jb\\x9bc\\u202ed\te\n"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_whatever_prints_is_escaped(kind, monkeypatch):
    """Prints, logs, warnings and tracebacks, on a terminal and elsewhere."""
    import click

    out, err = kind(), kind()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    handler = logging.Handler()
    handler.emit = lambda record: print(record.getMessage(), file=sys.stderr)
    log = logging.getLogger("viewgen.evil")
    log.addHandler(handler)
    with boundary():
        print(EVIL)
        click.echo(EVIL, color=True)
        click.echo(EVIL, err=True, color=True)
        # pytest keeps what is logged, and a report of it cannot hold half a surrogate pair
        log.warning("%s", EVIL.replace("\ud800", ""))
        sys.stderr.writelines([EVIL, EVIL])
        Progress().say(EVIL.replace("\ud800", ""))
        with pytest.raises(TypeError):
            sys.stdout.write(b"")
    log.removeHandler(handler)
    for text in (out.getvalue(), err.getvalue()):
        assert safe(text)
        assert "\\x1b]52;c;ZXZpbA==" in text
        assert "\\u202egnp" in text
    assert sys.stdout is out


def test_a_console_keeps_its_own_colours_alone(monkeypatch):
    from rich.table import Table
    from rich.text import Text

    out = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    shown = console(file=Escaped(out), force_terminal=True, width=200, color_system="standard")
    table = Table("name", header_style="bold")
    table.add_row(EVIL)
    table.add_row(Text(EVIL, style="red"))
    table.add_row("[bold]:smile: [/nothing]")
    shown.print(table, EVIL)
    text = out.getvalue()
    assert "\x1b[1m" in text
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert text.count("\\x1b]0;title") == 3
    assert "[bold]:smile: [/nothing]" in text


def test_a_stream_without_the_characters_shows_their_codes():
    raw = io.TextIOWrapper(io.BytesIO(), "ascii", write_through=True)
    Escaped(raw).write("ε₁\n")
    assert raw.buffer.getvalue() == b"\\u03b5\\u2081\n"


def run(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as ending:
            return ending.code, out.getvalue(), err.getvalue()
    raise AssertionError


@pytest.fixture
def evil_cache(tmp_path, make_spec, write_cache):
    evil = EVIL.replace("\ud800", "")
    spec = make_spec(
        method=evil, dataset={"name": evil, "split": evil, evil: evil}, config={evil: evil, "x": [evil]},
        versions={"viewgen": evil},
    )  # fmt: skip
    url = str(tmp_path / evil.replace("/", "-").replace("\0", ""))
    write_cache(open_storage(url), spec)
    return url


@pytest.mark.usefixtures("no_flushing")
def test_every_command_that_reads_a_cache(evil_cache):
    code, out, err = run(["show", evil_cache])
    assert code == 0
    assert safe(out + err)
    assert "\\x1b]52;c" in out
    code, out, _ = run(["show", evil_cache, "--json"])
    assert safe(out)
    assert json.loads(out)["method"] == EVIL.replace("\ud800", "")
    code, out, err = run(["verify", evil_cache])
    assert code == 0
    assert safe(out + err)
    for words in (["show", evil_cache + "x"], ["verify", evil_cache, EVIL], [EVIL], ["show", f"--{EVIL}"]):
        code, out, err = run(words)
        assert code
        assert safe(out + err), words
        assert "\\x1b]0;title" in err, words


def test_json_keeps_its_values(capsys):
    print_json({"name": EVIL})
    text = capsys.readouterr().out
    assert safe(text)
    assert json.loads(text) == {"name": EVIL}


def test_all_commands_inherit_that_nothing_is_dropped():
    assert cli.context_settings["color"] is True
