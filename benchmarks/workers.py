"""One worker against two on this machine: the same cache, made by `viewgen cache` on Ray, in turn.

"1 worker, 1 core" confines the whole command, Ray's own processes too, to one core. "1 worker" has both
cores and computes with two threads, as it does by default. All make the same cache, whose inversions are
there beforehand; the digests of all their objects are compared. "while they work" counts from the first
shard's begin to the last commit, the wait for the slower worker's last shard included. "whole stage" counts
the workers' start too, which takes as long for two as for one: its share shrinks as the job grows.

How much two cores of a machine can do at all is measured without Ray and without a common cache: two commands
that know nothing of each other, each on a core of its own, beside one of them alone.

    python benchmarks/workers.py
"""

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from measure import row, run_watched, write_result

from viewgen.store import list_commits, open_storage, read_spec

CONTENDERS = {"1 worker, 1 core": (1, ("taskset", "-c", "0")), "1 worker": (1, ()), "2 workers": (2, ())}


def make(method: str, *arguments: str, confine: Sequence[str] = ()) -> tuple[dict[str, Any], int | None]:
    """Make a cache of digits; return the command's JSON, and the peak memory of all its processes."""
    command = [
        *confine,
        sys.executable,
        "-m",
        "viewgen",
        "cache",
        "--dataset",
        "digits",
        "--method",
        method,
        "--json",
    ]
    output, memory = run_watched([*command, "--no-gallery", "--no-quality", *arguments])
    document: dict[str, Any] = json.loads(output)
    return document, memory


def object_digests(url: str) -> dict[str, str]:
    """Return path → digest of every object of a cache."""
    storage = open_storage(url)
    commits = list_commits(storage, read_spec(storage))
    return {path: entry["sha256"] for commit in commits.values() for path, entry in commit.objects.items()}


def working_seconds(folder: Path) -> tuple[float, float]:
    """Return the time from the first shard's begin to the last commit, and the sum of all shards' times."""
    storage = open_storage(str(folder))
    commits = list_commits(storage, read_spec(storage))
    ends = {shard: (folder / "commits" / f"{shard:08}.json").stat().st_mtime for shard in commits}
    begins = {shard: end - commits[shard].seconds for shard, end in ends.items()}
    shard_seconds = [commit.seconds for commit in commits.values()]
    return max(ends.values()) - min(begins.values()), sum(shard_seconds)


def apart(folder: Path, commands: int, inversions: str, *arguments: str) -> float:
    """Return the longest working time of so many commands at once, each with caches and a core of its own."""
    outs = [folder / f"apart-{number}.zarr" for number in range(commands)]

    def one(number: int) -> None:
        own = f"{inversions}-{number}"  # a cache has one writer
        shutil.copytree(inversions, own, dirs_exist_ok=True)
        options = ("--executor", "local", "--inversions", own, "--out", str(outs[number]))
        make("wsearch", *options, *arguments, confine=("taskset", "-c", str(number)))

    with ThreadPoolExecutor(commands) as pool:
        list(pool.map(one, range(commands)))
    seconds = [working_seconds(out)[0] for out in outs]
    for out in outs:
        shutil.rmtree(out)
    return max(seconds)


@click.command()
@click.option("--images", default=192, show_default=True)
@click.option("--rounds", default=2, show_default=True)
def main(images: int, rounds: int) -> None:
    """Measure, print and write the result file."""
    working: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    stage: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    all_shards: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    digests: dict[str, dict[str, str]] = {}
    memory: dict[str, int | None] = {}
    one_apart: list[float] = []
    two_apart: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few = ("--limit", str(images))
        inversions = str(folder / "inversions.zarr")
        make("invert", *few, "--executor", "local", "--out", inversions)
        for _ in range(rounds):
            for name, (workers, confine) in CONTENDERS.items():
                out = folder / "views.zarr"
                options = ("--out", str(out), "--workers", str(workers), "--inversions", inversions)
                document, memory[name] = make("wsearch", *options, *few, confine=confine)
                stage[name].append(images * document["num_views"] / document["views_per_second"])
                span, shards = working_seconds(out)
                working[name].append(span)
                all_shards[name].append(shards)
                digests[name] = object_digests(str(out))
                shutil.rmtree(out)
            one_apart.append(apart(folder, 1, inversions, *few))
            two_apart.append(apart(folder, 2, inversions, *few))
    expected = digests["2 workers"]
    identical = len(expected) > 0 and all(found == expected for found in digests.values())
    quality = f"{len(expected)} objects of the caches {'are identical' if identical else 'DIFFER'}"
    ratios = {
        f"{name} / 2 workers, {what}": row(
            seconds[name], seconds["2 workers"], quality=quality, memory=memory
        )
        for what, seconds in (("while they work", working), ("whole stage", stage))
        for name in ("1 worker, 1 core", "1 worker")
    }
    title = "1 command, 1 core / 2 commands, each half of the work, without Ray"
    ratios[title] = row(one_apart, [seconds / 2 for seconds in two_apart], quality="each its own cache")
    alone, both = all_shards["1 worker, 1 core"], all_shards["2 workers"]
    slower = statistics.median(b / a for a, b in zip(alone, both, strict=True))
    idle = statistics.median(
        1 - shards / (2 * span) for shards, span in zip(both, working["2 workers"], strict=True)
    )
    text = (
        f"Of two workers at once, each takes {slower:.2f} times as long for a shard as one alone on one core "
        f"(Ray's own processes on it too), and they wait for shards {idle:.1%} of the time. Two "
        "commands that share nothing, each on a core of its own, are together "
        f"{ratios[title]['median']:.2f} × as fast as one."
    )
    click.echo(text)
    document = {
        "ratios": ratios,
        "texts": {"two workers": text},
        "seconds_of_all_shards": all_shards,
        "seconds_working": working,
        "seconds_of_the_stage": stage,
        "seconds_of_one_command": one_apart,
        "seconds_of_two_commands": two_apart,
        "identical": identical,
        "images": images,
    }
    path = write_result("workers", document, ("torch", "ray"))
    for title, value in ratios.items():
        click.echo(f"{value['median']:.2f} × ({value['low']:.2f} … {value['high']:.2f})  {title}; {quality}")
    click.echo(f"written: {path}")
    if not identical:
        sys.exit(1)


if __name__ == "__main__":
    main()
