"""What a killed run of these tests has left behind is ended by the next, and nothing else is."""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from leftovers import MARK, run_mark, sweep_leftovers


def test_processes_of_ended_runs_are_ended_and_no_others():
    with subprocess.Popen(["true"]) as run:
        pass
    here = run_mark()
    namespace, pid, start = here.split(" ")
    ended = {
        "an ended run": f"{namespace} {run.pid} {start}",
        "its number used again": f"{namespace} {pid} 1",
    }
    others = {"this run": here, "another container": f"pid:[1] {run.pid} {start}", "no mark": ""}
    plain = {name: value for name, value in os.environ.items() if name != MARK}
    processes = {}
    try:
        for name, mark in (ended | others).items():
            words = ["sh", "-c", "sleep 60 & wait"]  # one that has started another
            processes[name] = subprocess.Popen(words, env=plain | ({MARK: mark} if mark else {}))
        swept = sweep_leftovers()
        assert {processes[name].pid for name in ended} <= swept.keys()
        assert {processes[name].pid for name in others}.isdisjoint(swept)
        assert sweep_leftovers() == {}
        for name, process in processes.items():
            assert process.poll() is None if name in others else process.wait(10) == -9, name
    finally:
        for name, process in processes.items():
            if name in others:
                subprocess.run(["pkill", "-P", str(process.pid)], check=False)
            process.kill()
            process.wait()


def test_whatever_a_run_starts_has_its_mark():
    assert os.environ[MARK]
    asked = f"import os; print(os.environ['{MARK}'])"
    said = subprocess.run([sys.executable, "-S", "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == os.environ[MARK]
