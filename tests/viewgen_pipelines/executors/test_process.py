"""What a worker settles for itself, so that nobody sets variables in a shell: threads and the allocator."""

import json
import os
import subprocess
import sys

import pytest

from viewgen_pipelines.executors import LocalExecutor

# Page faults of the last 25 of 40 times that 32 MiB are allocated and freed, and the settings then.
PROGRAM = """
import json, os, resource, sys
import torch
from viewgen_pipelines.executors.process import configure_process

before = dict(os.environ)
if sys.argv[1] == "worker":
    configure_process(3)
faults = []
for _ in range(40):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(8 * 2**20)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
print(json.dumps({
    "faults": sum(faults[15:]),
    "threads": torch.get_num_threads(),
    "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
    "environment_changed": dict(os.environ) != before,
}))
"""


def run(kind: str) -> dict[str, int | bool]:
    hidden = ("MALLOC_", "OMP_", "MKL_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, int | bool] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_a_worker_sets_threads_and_keeps_freed_memory():
    worker, other = run("worker"), run("other")
    assert worker["threads"] == 3
    assert worker["tf32"] is False
    assert not worker["environment_changed"]
    # untouched, each of 25 tensors is mapped anew: some 8192 pages, or 16 huge ones
    assert other["faults"] > 25 * 10
    assert worker["faults"] < 25


def test_the_local_worker_takes_as_many_threads_as_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert LocalExecutor().place.num_threads == 3
