"""How long the command line takes to answer: `viewgen --help` against an interpreter that does nothing.

Every round starts each command once, as a user's shell would.

    python benchmarks/start_up.py
"""

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
from measure import interleave, row, write_result

MOST_SECONDS = 0.15
NOTHING = "python -c pass"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    "viewgen --help": ["-m", "viewgen", "--help"],
    "viewgen cache --help": ["-m", "viewgen", "cache", "--help"],
    "viewgen train --help": ["-m", "viewgen", "train", "--help"],
    "python -c 'import viewgen'": ["-c", "import viewgen"],
    "python -c 'import torch'": ["-c", "import torch"],
}
REPORT = """import atexit, sys
@atexit.register
def report():
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def start(arguments: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


@click.command()
@click.option("--rounds", default=7, show_default=True)
def main(rounds: int) -> None:
    """Measure, print and write results/start_up.json."""

    seconds = interleave({name: partial(start, arguments) for name, arguments in COMMANDS.items()}, rounds)
    memory = {name: _peak(arguments) for name, arguments in COMMANDS.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        f"start: {name} / {NOTHING}": row(
            values,
            seconds[NOTHING],
            quality=f"{medians[name]:.3f} s, exit code 0",
            memory={name: memory[name], NOTHING: memory[NOTHING]},
        )
        for name, values in seconds.items()
        if name != NOTHING
    }
    for name, value in medians.items():
        click.echo(f"{value:7.3f} s  {name}")
    write_result("start_up", {"ratios": ratios, "seconds": medians}, ("click", "torch"))
    if medians["viewgen --help"] >= MOST_SECONDS:
        click.echo(f"viewgen --help takes longer than {MOST_SECONDS} s", err=True)


def _peak(arguments: list[str]) -> int | None:
    """Return the largest resident set of the command's process, which reports it at its end."""
    if not Path("/proc/self/status").exists():
        return None
    if arguments[0] == "-m":
        argv = arguments[1:]
        work = f"import runpy; sys.argv = {argv!r}; runpy.run_module('viewgen', None, '__main__', True)"
    else:
        work = arguments[1]
    done = subprocess.run(
        [sys.executable, "-c", f"{REPORT}\n{work}"], check=True, stdout=subprocess.PIPE, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("VmHWM")]
    return int(lines[-1].split()[1]) * 1024


if __name__ == "__main__":
    main()
