"""One worker against two on this machine: the same cache, made by `viewgen cache` on Ray, in turn.

"1 worker, 1 core" confines the whole command, Ray's own processes too, to one core. "1 worker" has both
cores and computes with two threads, as it does by default. "1 command, 1 core" has no Ray at all: against
it, two workers pay for all of Ray's processes. All make the same cache, whose inversions are there
beforehand; the digests of all their objects are compared.

"at work" is the rate of the later half of each worker's shards, which is that of a long job: networks are
loaded and Ray's dashboard is there. "whole job" counts from the first shard's begin to the last commit, the
wait for the slower worker's last shard included; "whole stage" counts the workers' start too. How much two
cores of a machine can do at all is measured by two commands without Ray that know nothing of each other, each
with a cache and a core of its own.

    python benchmarks/workers.py
"""

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from measure import row, run_watched, write_result

from viewgen.store import list_commits, open_storage, read_spec

ALONE, THREADS, BOTH = "1 worker, 1 core", "1 worker", "2 workers"
CONTENDERS = {ALONE: (1, ("taskset", "-c", "0")), THREADS: (1, ()), BOTH: (2, ())}
COMMAND = "1 command, 1 core, without Ray"
SHARD_IMAGES = 16
LEAST_IMAGES = 16 * SHARD_IMAGES
CLOCK_SECONDS = 0.01


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


@dataclass
class Work:
    """Times of a cache that was made: in seconds.

    Attributes:
        image: time of an image in the later half of each worker's shards, all workers together.
        job: from the first shard's begin to the last commit.
        shards: sum of all shards' times.
    """

    image: float
    job: float
    shards: float


def lanes_of(begins: dict[int, float], ends: dict[int, float], workers: int) -> list[list[float]]:
    """Return, for each worker, the ends of its shards: a shard is of the worker that had just become free."""
    lanes: list[list[float]] = [[] for _ in range(workers)]
    for shard in sorted(begins, key=begins.__getitem__):
        # the time of a file is that of the kernel's clock tick
        free = [lane for lane in lanes if not lane or lane[-1] <= begins[shard] + CLOCK_SECONDS]
        lane = max(free or lanes, key=lambda lane: lane[-1] if lane else 0.0)
        lane.append(ends[shard])
    return lanes


def later_rate(lanes: list[list[float]]) -> float:
    """Return the shards per second of all lanes, in the later half of each, until one has no more."""
    stop = min(lane[-1] for lane in lanes)
    rate = 0.0
    for lane in lanes:
        later = [end for end in lane[len(lane) // 2 :] if end <= stop]
        rate += (len(later) - 1) / (later[-1] - later[0])
    return rate


def work(folder: Path, workers: int) -> Work:
    """Read the times of a cache from its commits; all its shards are of one size."""
    storage = open_storage(str(folder))
    spec = read_spec(storage)
    commits = list_commits(storage, spec)
    ends = {shard: (folder / "commits" / f"{shard:08}.json").stat().st_mtime for shard in commits}
    begins = {shard: end - commits[shard].seconds for shard, end in ends.items()}
    return Work(
        image=1 / (spec.shard_images * later_rate(lanes_of(begins, ends, workers))),
        job=max(ends.values()) - min(begins.values()),
        shards=sum(commit.seconds for commit in commits.values()),
    )


def apart(folder: Path, commands: int, inversions: str, *arguments: str) -> list[tuple[Work, dict[str, str]]]:
    """Run so many commands at once, each with caches and a core of its own; return the times and digests."""
    outs = [folder / f"apart-{number}.zarr" for number in range(commands)]

    def one(number: int) -> None:
        own = f"{inversions}-{number}"  # a cache has one writer
        shutil.copytree(inversions, own, dirs_exist_ok=True)
        options = ("--executor", "local", "--inversions", own, "--out", str(outs[number]))
        make("wsearch", *options, *arguments, confine=("taskset", "-c", str(number)))

    with ThreadPoolExecutor(commands) as pool:
        list(pool.map(one, range(commands)))
    found = [(work(out, 1), object_digests(str(out))) for out in outs]
    for out in outs:
        shutil.rmtree(out)
    return found


@click.command()
@click.option("--images", default=352, show_default=True)
@click.option("--rounds", default=2, show_default=True)
def main(images: int, rounds: int) -> None:
    """Measure, print and write the result file."""
    if images < LEAST_IMAGES or images % SHARD_IMAGES:
        raise click.UsageError(
            f"--images {images}: expected a multiple of {SHARD_IMAGES}, at least {LEAST_IMAGES}"
        )
    times: dict[str, list[Work]] = {name: [] for name in (*CONTENDERS, COMMAND)}
    stage: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    two_commands: list[float] = []
    digests: list[dict[str, str]] = []
    memory: dict[str, int | None] = {}
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
                times[name].append(work(out, workers))
                digests.append(object_digests(str(out)))
                shutil.rmtree(out)
            for commands in (1, 2):
                together = apart(folder, commands, inversions, *few)
                digests += [each for _, each in together]
                if commands == 1:
                    times[COMMAND].append(together[0][0])
                else:
                    two_commands.append(1 / sum(1 / one.image for one, _ in together))
    identical = len(digests[0]) > 0 and all(found == digests[0] for found in digests)
    quality = f"{len(digests[0])} objects of the caches {'are identical' if identical else 'DIFFER'}"
    per_image = {name: [one.image for one in works] for name, works in times.items()}
    jobs = {name: [one.job for one in works] for name, works in times.items()}
    ratios = {
        f"{name} / {BOTH}, {what}": row(
            seconds[name], seconds[BOTH], quality=quality, memory=memory if name in memory else None
        )
        for what, seconds in (("at work", per_image), ("whole job", jobs), ("whole stage", stage))
        for name in seconds
        if name != BOTH
    }
    title = f"{COMMAND} / 2 commands, a core each, without Ray, at work"
    ratios[title] = row(per_image[COMMAND], two_commands, quality=quality)
    both = times[BOTH]
    idle = statistics.median(1 - one.shards / (2 * one.job) for one in both)
    against_nothing = ratios[f"{COMMAND} / {BOTH}, at work"]["median"]
    whole_job = ratios[f"{ALONE} / {BOTH}, whole job"]["median"]
    text = (
        f"Two commands that share nothing, each on a core of its own, are together "
        f"{ratios[title]['median']:.2f} × as fast as one; against one such command, which has none of Ray's "
        f"processes, two workers are {against_nothing:.2f} × as fast. In the whole job of {images} images "
        f"they are {whole_job:.2f} × as fast as one worker: each loads its networks, Ray's dashboard starts "
        f"meanwhile, and they wait for shards {idle:.1%} of the time."
    )
    click.echo(text)
    document = {
        "ratios": ratios,
        "texts": {"two workers": text},
        "seconds_of_an_image": per_image | {"2 commands": two_commands},
        "seconds_of_the_job": jobs,
        "seconds_of_the_stage": stage,
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
