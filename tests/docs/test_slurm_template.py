"""The batch script of docs/how-to/command-line.md, run with stand-ins for viewgen and Slurm's scontrol."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/how-to/command-line.md"
VIEWGEN = """#!/bin/bash
echo "viewgen $1" >> "$LOG"
case $1 in
    "$SLOW") trap 'echo "stopped $1" >> "$LOG"; exit 143' TERM; for _ in {1..300}; do sleep 0.1; done ;;
    "$FAILING") exit 4 ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    """Return a function that starts the script with environment variables, and its log."""
    blocks = re.findall(r"^```bash\n(#!.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    script = next(block for block in blocks if "#SBATCH" in block)
    (tmp_path / "job.sh").write_text(script)
    commands = tmp_path / "venv/bin"
    commands.mkdir(parents=True)
    (commands / "activate").write_text(f'PATH="{commands}:$PATH"\n')
    for name, text in {"viewgen": VIEWGEN, "scontrol": '#!/bin/bash\necho "scontrol $*" >> "$LOG"\n'}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()

    def start(**environment):
        slurm = {"SCRATCH": str(tmp_path), "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "77"}
        found = {"HOME": str(tmp_path), "LOG": str(log), "PATH": os.environ["PATH"], **slurm, **environment}
        return subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=found)

    return start, log


def test_a_job_runs_its_commands_and_is_not_put_back(job):
    start, log = job
    assert start().wait(20) == 0
    assert log.read_text().splitlines() == ["viewgen cache", "viewgen train"]


def test_a_failed_command_ends_the_job(job):
    start, log = job
    assert start(FAILING="cache").wait(20) == 4
    assert log.read_text().splitlines() == ["viewgen cache"]


@pytest.mark.parametrize("slow", ["cache", "train"])
def test_the_signal_before_the_end_stops_the_command_and_puts_the_job_back(job, slow):
    start, log = job
    process = start(SLOW=slow)
    for _ in range(200):
        if f"viewgen {slow}" in log.read_text():
            break
        time.sleep(0.05)
    time.sleep(0.2)  # its trap is set after that line
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert log.read_text().splitlines()[-2:] == [f"stopped {slow}", "scontrol requeue 77"]
