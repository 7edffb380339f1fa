"""One worker against two on this machine: the same cache, made by `viewgen cache` on Ray, in turn.

"1 worker, 1 core" confines the whole command, Ray's own processes too, to one core. "1 worker" has both
cores and computes with two threads, as it does by default. All make the same cache, whose inversions are
there beforehand; the digests of all their objects are compared. "while they work" counts from the first
shard's begin to the last commit: each worker's networks are loaded in its first shard, the dashboard starts
meanwhile, and the slower worker's last shard is waited for. "whole stage" counts the workers' start too. All
these shares shrink as the job grows.

"1 command, 1 core" has no Ray at all: against it, two workers pay for all of Ray's processes. How much two
cores of a machine can do at all is measured by two such commands that know nothing of each other, each with a
cache and a core of its own; and by two processes that only multiply small matrices, or only copy memory.

    python benchmarks/workers.py
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from measure import row, run_watched, write_result

from viewgen.store import list_commits, open_storage, read_spec

ALONE, THREADS, BOTH = "1 worker, 1 core", "1 worker", "2 workers"
CONTENDERS = {ALONE: (1, ("taskset", "-c", "0")), THREADS: (1, ()), BOTH: (2, ())}
SHARD_IMAGES = 16
# calls per second, within three seconds that begin at a given time
PROBE = """import os, sys, time, torch
os.sched_setaffinity(0, {int(sys.argv[1])})
torch.set_num_threads(1)
a, big = torch.randn(64, 64), torch.randn(8_000_000)
copy = torch.empty_like(big)
work = {"arithmetic": lambda: [a @ a for _ in range(20)], "memory": lambda: copy.copy_(big)}[sys.argv[2]]
work()
begin = float(sys.argv[3])
assert time.time() < begin, "the process took too long to start"
count = 0
while time.time() < begin:
    work()
while time.time() < begin + 3:
    work()
    count += 1
print(count)"""


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


def apart(
    folder: Path, commands: int, inversions: str, *arguments: str
) -> tuple[float, list[dict[str, str]]]:
    """Run so many commands at once, each with caches and a core of its own.

    Returns:
        the longest working time, and the digests of each cache.
    """
    outs = [folder / f"apart-{number}.zarr" for number in range(commands)]

    def one(number: int) -> None:
        own = f"{inversions}-{number}"  # a cache has one writer
        shutil.copytree(inversions, own, dirs_exist_ok=True)
        options = ("--executor", "local", "--inversions", own, "--out", str(outs[number]))
        make("wsearch", *options, *arguments, confine=("taskset", "-c", str(number)))

    with ThreadPoolExecutor(commands) as pool:
        list(pool.map(one, range(commands)))
    seconds = [working_seconds(out)[0] for out in outs]
    found = [object_digests(str(out)) for out in outs]
    for out in outs:
        shutil.rmtree(out)
    return max(seconds), found


def two_cores(work: str) -> float:
    """Return how many times as much of one kind of work two cores do as one, in the mean of both."""

    def rate(*cores: int) -> float:
        begin = time.time() + 4
        words = [[sys.executable, "-c", PROBE, str(core), work, str(begin)] for core in cores]
        running = [subprocess.Popen(word, stdout=subprocess.PIPE, text=True) for word in words]
        return sum(float(process.communicate()[0]) for process in running)

    return rate(0, 1) / statistics.mean((rate(0), rate(1)))


@click.command()
@click.option("--images", default=320, show_default=True)
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
    of_two_cores: dict[str, list[float]] = {"arithmetic": [], "memory": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        few = ("--limit", str(images), "--shard-images", str(SHARD_IMAGES))
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
            for commands, seconds_apart in ((1, one_apart), (2, two_apart)):
                longest, caches = apart(folder, commands, inversions, *few)
                seconds_apart.append(longest)
                digests |= {f"{number} of {commands} commands": each for number, each in enumerate(caches)}
            for work, found in of_two_cores.items():
                found.append(two_cores(work))
    expected = digests[BOTH]
    identical = len(expected) > 0 and all(found == expected for found in digests.values())
    quality = f"{len(expected)} objects of the caches {'are identical' if identical else 'DIFFER'}"
    ratios = {
        f"{name} / {BOTH}, {what}": row(seconds[name], seconds[BOTH], quality=quality, memory=memory)
        for what, seconds in (("while they work", working), ("whole stage", stage))
        for name in (ALONE, THREADS)
    }
    ratios[f"1 command, 1 core, without Ray / {BOTH}, while they work"] = row(
        one_apart, working[BOTH], quality=quality
    )
    title = "1 command, 1 core / 2 commands, each half of the work, without Ray"
    ratios[title] = row(one_apart, [seconds / 2 for seconds in two_apart], quality=quality)
    alone, both = all_shards[ALONE], all_shards[BOTH]
    slower = statistics.median(b / a for a, b in zip(alone, both, strict=True))
    idle = statistics.median(
        1 - shards / (2 * span) for shards, span in zip(both, working[BOTH], strict=True)
    )
    text = (
        f"Of two workers at once, each takes {slower:.2f} times as long for a shard as one alone on one core "
        f"(Ray's own processes on it too), and they wait for shards {idle:.1%} of the time. Two "
        "commands that share nothing, each on a core of its own, are together "
        f"{ratios[title]['median']:.2f} × as fast as one; two processes that only compute "
        f"{statistics.median(of_two_cores['arithmetic']):.2f} ×, two that only copy memory "
        f"{statistics.median(of_two_cores['memory']):.2f} ×. Against one command without Ray, two workers "
        f"are {ratios[f'1 command, 1 core, without Ray / {BOTH}, while they work']['median']:.2f} × as "
        f"fast in this job of {images} images, in which Ray's dashboard starts too."
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
        "speed_of_two_cores": of_two_cores,
        "identical": identical,
        "images": images,
        "shard_images": SHARD_IMAGES,
    }
    path = write_result("workers", document, ("torch", "ray"))
    for title, value in ratios.items():
        click.echo(f"{value['median']:.2f} × ({value['low']:.2f} … {value['high']:.2f})  {title}; {quality}")
    click.echo(f"written: {path}")
    if not identical:
        sys.exit(1)


if __name__ == "__main__":
    main()
