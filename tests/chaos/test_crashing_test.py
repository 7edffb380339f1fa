"""A test that takes its process down is reported as failed, with its stack, and the others run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import ctypes

def test_before(): pass

def test_crash(): ctypes.string_at(0)

def test_after(): pass
"""


@pytest.mark.chaos
def test_a_crash_costs_one_test(tmp_path):
    (tmp_path / "test_three.py").write_text(TESTS)
    # what this suite's own conftest.py does first
    (tmp_path / "conftest.py").write_text(
        "import torch\ntorch._C._set_print_stack_traces_on_fatal_signal(True)\n"
    )
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "-n $(JOBS) --dist worksteal" in makefile
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "1",
            "--dist",
            "worksteal",
            "-p",
            "no:cacheprovider",
            ".",
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "1 failed, 2 passed" in done.stdout
    assert "crashed while running 'test_three.py::test_crash'" in done.stdout
    assert "Fatal Python error: Segmentation fault" in done.stdout + done.stderr
