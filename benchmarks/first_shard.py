"""How long a run on Ray takes to its first shard: 64 digits in shards of 16, two workers on two cores.

Every round runs each contender once, to its end; seconds count until the first commit is there. Beside
today's command: the same with Ray's processes started in Ray's own order, the same without Ray, and, if its
sources are given, an earlier version.

    git worktree add --detach EARLIER COMMIT
    python benchmarks/first_shard.py --earlier EARLIER
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from measure import row, write_result

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("", "pipelines", "train", "pretrained")
LOOK_SECONDS = 0.01
METHODS = {"expert": ["--views", "2"], "invert": []}
RUN = ["cache", "--dataset", "digits", "--limit", "64", "--shard-images", "16", "--json"]
COMMAND = ["-m", "viewgen", *RUN]
# the same command line, without the change of Ray's order
RAYS_ORDER = """import contextlib, runpy
from viewgen_pipelines.executors import session
session.prompt_node = lambda ray: contextlib.nullcontext()
runpy.run_module("viewgen", None, "__main__", True)"""
NOW, OWN_ORDER, NO_RAY = "viewgen", "viewgen, Ray started in its own order", "viewgen, without Ray"


def first_shard(arguments: list[str], sources: Path, method: str) -> tuple[float, float]:
    """Run a command of some sources; return the seconds to its first commit, and to its end."""
    path = os.pathsep.join(str(sources / package) for package in PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "views.zarr")
        words = [sys.executable, *arguments, "--method", method, *METHODS[method], "--out", str(out)]
        begin = time.perf_counter()
        running = subprocess.Popen(
            words,
            cwd=sources,
            env={**os.environ, "PYTHONPATH": path, "VIEWGEN_QUALITY": "0"},  # of 0.1.0 nothing was measured
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seconds = None
        while running.poll() is None:
            if seconds is None and any((out / "commits").glob("*.json")):
                seconds = time.perf_counter() - begin
            time.sleep(LOOK_SECONDS)
        if running.returncode != 0 or seconds is None:
            raise RuntimeError(f"{words}: ended with {running.returncode}")
        return seconds, time.perf_counter() - begin


def version_of(sources: Path) -> tuple[str, str]:
    """Return the name of the version of some sources, and their commit."""
    version = tomllib.loads((sources / "pyproject.toml").read_text())["project"]["version"]
    git = ["git", "-C", str(sources), "rev-parse", "HEAD"]
    return f"version {version}", subprocess.run(
        git, check=True, capture_output=True, text=True
    ).stdout.strip()


@click.command()
@click.option("--rounds", default=4, show_default=True)
@click.option(
    "--earlier", type=click.Path(exists=True, path_type=Path), help="Sources of an earlier version."
)
def main(rounds: int, earlier: Path | None) -> None:
    """Measure, print and write results/first_shard.json."""
    contenders: dict[str, Callable[[str], tuple[float, float]]] = {
        NOW: partial(first_shard, COMMAND, ROOT),
        OWN_ORDER: partial(first_shard, ["-c", RAYS_ORDER, *RUN], ROOT),
        NO_RAY: partial(first_shard, [*COMMAND, "--executor", "local"], ROOT),
    }
    commit = None
    if earlier is not None:
        name, commit = version_of(earlier)
        contenders[name] = partial(first_shard, COMMAND, earlier.resolve())
    ratios, medians = {}, {}
    for method in METHODS:
        seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
        ends: dict[str, list[float]] = {contender: [] for contender in contenders}
        for round_number in range(rounds):
            # each comes after another one in every round
            order = [*contenders][round_number % len(contenders) :] + [*contenders][
                : round_number % len(contenders)
            ]
            for contender in order:
                first, end = contenders[contender](method)
                seconds[contender].append(first)
                ends[contender].append(end)
                click.echo(f"{first:6.2f} s, to the end {end:6.2f} s  {method}: {contender}")
        found = {contender: statistics.median(values) for contender, values in seconds.items()}
        whole = {contender: statistics.median(values) for contender, values in ends.items()}
        medians |= {f"{method}: {contender}": value for contender, value in found.items()}
        medians |= {f"{method}: {contender}, to the end": value for contender, value in whole.items()}
        for contender in contenders:
            if contender != NOW:
                quality = (
                    f"{found[contender]:.1f} s / {found[NOW]:.1f} s; the whole command "
                    f"{whole[contender]:.1f} s / {whole[NOW]:.1f} s"
                )
                if method == "invert" and contender not in (NOW, OWN_ORDER, NO_RAY):
                    quality += "; 12 steps of Adam / 3 of L-BFGS"
                ratios[f"first shard, {method}: {contender} / {NOW}"] = row(
                    seconds[contender], seconds[NOW], quality=quality
                )
    path = write_result(
        "first_shard", {"ratios": ratios, "seconds": medians, "earlier": commit}, ("torch", "ray")
    )
    click.echo(f"written: {path}")


if __name__ == "__main__":
    main()
