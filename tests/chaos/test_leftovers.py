"""What a killed run of these tests has left behind is ended by the next, and nothing else is."""

import json
import os
import subprocess
import sys
from pathlib import Path

from viewgen_pipelines.shards.lease import this_process

sys.path.insert(0, str(Path(__file__).parent))

from leftovers import MARK, sweep_leftovers


def test_processes_of_ended_runs_are_ended_and_no_others():
    with subprocess.Popen(["true"]) as run:
        pass
    here = this_process()
    ended = {"an ended run": here | {"pid": run.pid}, "its number used again": here | {"process_start": "1"}}
    others = {"this run": here, "another container": ended["an ended run"] | {"host": "another"}, "none": {}}
    plain = {name: value for name, value in os.environ.items() if name != MARK}
    processes = {}
    try:
        for name, mark in (ended | others).items():
            # one that has started another, without the mark
            words = ["sh", "-c", f"env -u {MARK} sleep 60 & echo; wait"]
            environment = plain | ({MARK: json.dumps(mark)} if mark else {})
            processes[name] = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
            processes[name].stdout.readline()
        swept = sweep_leftovers()
        assert {processes[name].pid for name in ended} <= swept
        assert len(swept) >= 2 * len(ended)
        assert {processes[name].pid for name in others}.isdisjoint(swept)
        assert sweep_leftovers() == set()
        for name, process in processes.items():
            # a shell whose child was killed first ends by itself; one that nobody ended waits for 60 s
            assert process.poll() is None if name in others else process.wait(10) is not None, name
    finally:
        for name, process in processes.items():
            if name in others:
                subprocess.run(["pkill", "-P", str(process.pid)], check=False)
            process.kill()
            process.communicate()


def test_whatever_a_run_starts_has_its_mark():
    assert os.environ[MARK]
    asked = f"import os; print(os.environ['{MARK}'])"
    said = subprocess.run([sys.executable, "-S", "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == os.environ[MARK]
