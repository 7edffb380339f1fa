"""Completion in shells, as docs/how-to/command-line.md sets it up."""

import os
import subprocess
import sys

import pytest


def asked(instruction, **more):
    environment = {**os.environ, "_VIEWGEN_COMPLETE": instruction, **more}
    found = subprocess.run([sys.executable, "-m", "viewgen"], env=environment, capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stderr
    return found.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_the_start_up_file_defines_a_completion(shell):
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=asked("bash_source"), text=True, check=True)
    assert "viewgen" in asked(f"{shell}_source")


def test_commands_and_options_are_completed():
    assert "plain,calibrate" in asked("bash_complete", COMP_WORDS="viewgen cal", COMP_CWORD="1")
    assert "--epsilon-boundary" in asked("bash_complete", COMP_WORDS="viewgen cache --eps", COMP_CWORD="2")
