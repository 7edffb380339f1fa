"""What a process computes on."""

import os

import pytest
import torch

from viewgen.device import available_cores, available_threads, resolve_device
from viewgen.errors import UsageError


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_is_a_gpu_where_there_is_one(monkeypatch, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert resolve_device() == resolve_device("auto") == ("cuda" if gpu else "cpu")


def test_a_device_that_is_there_is_taken_as_named():
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(UsageError, match=rf"device '{name}' cannot be used: "):
        resolve_device(name)


def test_cores_are_those_that_the_process_may_use():
    assert available_cores() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("asked", "threads"), [("3", 3), ("2,1", 2), (" 1 ", 1), ("", None), ("0", None), ("all", None)]
)
def test_threads_are_as_many_as_asked_for_or_one_per_core(asked, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert available_threads() == (threads or available_cores())
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert available_threads() == available_cores()
