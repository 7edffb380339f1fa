"""One worker against two on this machine: the same cache, made by `viewgen cache` on Ray, in turn.

Both make the same cache, whose inversions are there beforehand; the digests of all their objects are
compared. "while they work" counts from the first shard's begin to the last commit, the wait for the slower
worker's last shard included. "whole stage" counts the workers' start too, which takes as long for two as for
one: its share shrinks as the job grows.

    python benchmarks/workers.py
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from measure import row, run_watched, write_result

from viewgen.store import list_commits, open_storage, read_spec


def make(folder: Path, method: str, *arguments: str) -> tuple[dict[str, Any], int | None]:
    """Make a cache of digits; return the command's JSON, and the peak memory of all its processes."""
    command = [sys.executable, "-m", "viewgen", "cache", "--dataset", "digits", "--method", method, "--json"]
    output, memory = run_watched([*command, "--no-gallery", *arguments])
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


@click.command()
@click.option("--images", default=192, show_default=True)
@click.option("--rounds", default=2, show_default=True)
def main(images: int, rounds: int) -> None:
    """Measure, print and write the result file."""
    working: dict[int, list[float]] = {1: [], 2: []}
    stage: dict[int, list[float]] = {1: [], 2: []}
    all_shards: dict[int, list[float]] = {1: [], 2: []}
    memory: dict[str, int | None] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = ("--limit", str(images))
        make(folder, "invert", *few, "--executor", "local", "--out", str(folder / "inversions.zarr"))
        for _ in range(rounds):
            for workers in working:
                out = folder / f"{workers}.zarr"
                options = ("--out", str(out), "--workers", str(workers), "--overwrite", *few)
                inversions = ("--inversions", str(folder / "inversions.zarr"))
                document, peak = make(folder, "wsearch", *options, *inversions)
                stage[workers].append(images * document["num_views"] / document["views_per_second"])
                span, shards = working_seconds(out)
                working[workers].append(span)
                all_shards[workers].append(shards)
                memory["2 workers" if workers == 2 else "1 worker"] = peak
        one, two = object_digests(str(folder / "1.zarr")), object_digests(str(folder / "2.zarr"))
    identical = one == two and len(one) > 0
    quality = f"{len(one)} objects of the caches {'are identical' if identical else 'DIFFER'}"
    ratios = {
        "1 worker / 2 workers, while they work": row(working[1], working[2], quality=quality, memory=memory),
        "1 worker / 2 workers, whole stage": row(stage[1], stage[2], quality=quality, memory=memory),
    }
    slower = statistics.median(b / a for a, b in zip(all_shards[1], all_shards[2], strict=True))
    idle = statistics.median(
        1 - shards / (2 * span) for shards, span in zip(all_shards[2], working[2], strict=True)
    )
    text = (
        f"Of two workers at once, each takes {slower:.2f} times as long for a shard as one alone, and they "
        f"wait for shards {idle:.1%} of the time."
    )
    click.echo(text)
    document = {
        "ratios": ratios,
        "texts": {"two workers": text},
        "seconds_of_all_shards": all_shards,
        "seconds_working": working,
        "seconds_of_the_stage": stage,
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
