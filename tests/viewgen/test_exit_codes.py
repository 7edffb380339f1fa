"""Exit codes of the command line where something else than viewgen chooses one."""

import contextlib
import os
import signal
import time

import pytest

from viewgen import cli


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("code", [0, 1])
def test_a_signal_ends_with_its_code_whatever_a_library_makes_of_it(handler, monkeypatch, code):
    def command(**_):
        with contextlib.suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        raise SystemExit(code)

    monkeypatch.setattr(cli, "cli", type("Group", (), {"main": staticmethod(command)}))
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 143


def test_an_exit_of_a_command_keeps_its_code(handler, monkeypatch):
    def command(**_):
        raise SystemExit(4)

    monkeypatch.setattr(cli, "cli", type("Group", (), {"main": staticmethod(command)}))
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 4
