"""Ratios of interleaved runs, and memory in fresh processes."""

import mmap
import sys
from pathlib import Path

import measure
import pytest

linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux' memory counters")


def test_ratios_are_taken_round_by_round():
    found = measure.ratio([2, 9, 4], [1, 3, 1])
    assert found == {"median": 3, "low": 2, "high": 4}


def test_ten_rounds_leave_out_the_outermost():
    found = measure.ratio(range(1, 11), [1] * 10)
    assert found == {"median": 5.5, "low": 2, "high": 9}


def test_contenders_take_turns():
    calls: list[str] = []
    seconds = measure.interleave({name: lambda name=name: calls.append(name) for name in "ab"}, 2, warm_up=1)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_row_carries_what_is_known_beside_its_ratio():
    found = measure.row([2.0], [1.0], quality="the same", memory={"a": 5, "b": None})
    assert found == {
        "median": 2.0, "low": 2.0, "high": 2.0, "rounds": 1, "quality": "the same", "peak_bytes": {"a": 5},
    }  # fmt: skip
    assert "peak_bytes" not in measure.row([2.0], [1.0], memory={"a": None})


@linux
def test_memory_that_is_given_back_counts():
    num_bytes = 200_000_000

    def allocate():
        # not by malloc, which may still hold what other tests have freed
        with mmap.mmap(-1, num_bytes) as pages:
            pages[:: mmap.PAGESIZE] = bytes(-(-num_bytes // mmap.PAGESIZE))

    grown = measure.memory_growth(allocate)
    assert grown is not None
    # other allocations come beside it; the counters of a page's worth per thread lag behind
    assert 0.98 * num_bytes < grown < 1.5 * num_bytes


@linux
def test_a_commands_children_count():
    child = "x = bytearray(100_000_000); import time; time.sleep(2.5)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    output, most = measure.run_watched([sys.executable, "-c", program])
    assert output == b"done\n"
    assert most is not None
    assert most > 100_000_000
