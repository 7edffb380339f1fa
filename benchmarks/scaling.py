"""Many workers, simulated: `simulation.py` on recorded step counts and shard times, and measured log times.

    python benchmarks/scaling.py record digits.zarr …   # caches → results/scaling_recordings.json
    python benchmarks/scaling.py sweep                  # → results/scaling.json
    python benchmarks/scaling.py draw                   # → docs/figures/scaling-*.png

Nothing here runs on more than one machine: every number of a sweep is simulated.
"""

import itertools
import json
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import RESULTS, machine, write_result
from simulation import Outcome, Recording, Scenario, simulate

from viewgen.store import CacheReader, open_storage
from viewgen_pipelines.shards.ledger import AttemptLedger

RECORDINGS = RESULTS / "scaling_recordings.json"
WORKERS = (1, 4, 16, 64, 256, 1024)
IMAGES = (50_000, 1_000_000, 10_000_000, 100_000_000)
SHARD_IMAGES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
# What nobody recorded. An object store: one request, one page of 1000 names, requests in flight, bytes/s.
REQUEST, PAGE, IN_FLIGHT, BANDWIDTH = 0.02, 0.1, 32, 100e6
# The driver's own time for a shard, of which no two shards have a share at once.
DRIVER = 0.005
# A fleet: a worker's start, one failure a day and worker, a minute to replace it, 5 % half as fast.
FLEET = {"start": 20.0, "mtbf": 86400.0, "restart": 60.0, "slow_share": 0.05, "slow_factor": 2.0}


def load_recordings() -> dict[str, Any]:
    """Return what `record` wrote."""
    document: dict[str, Any] = json.loads(RECORDINGS.read_text())
    return document


def load_recording(shard_images: int = 16) -> Recording:
    """Return the recording of shards of this size, fitted."""
    found = next(r for r in load_recordings()["recordings"] if r["shard_images"] == shard_images)
    return Recording.fit(found["steps"], found["seconds"])


def storage_times() -> dict[str, Any]:
    """Return the scenario's times of an object store: parsing as measured, requests as assumed above."""
    log = json.loads((RESULTS / "commit_log.json").read_text())["local_disk"][-1]
    parse = log["seconds"]["list compacted"] / log["records"]
    listed = PAGE / 1000
    return {
        "request": REQUEST,
        "list_name": listed,
        "list_record": (
            parse + REQUEST / IN_FLIGHT + listed,
            parse + log["record_bytes"] / BANDWIDTH,
        ),
        "compact_shard": 3 * REQUEST / IN_FLIGHT,
        "pause": load_recordings()["seconds_between_shards"]["median"],
        "driver": DRIVER,
    }


def seconds_between_shards(url: str) -> list[float]:
    """Return the pauses of a cache's workers, from the end of a shard to the same worker's next one."""
    reader = CacheReader(url)
    ledger = AttemptLedger(open_storage(url), "", 1)
    begun: dict[int, list[tuple[float, int]]] = {}
    for shard_id, history in ledger.histories().items():
        marker = ledger.started(history.attempts[-1])
        begun.setdefault(marker["worker"]["pid"], []).append((marker["time"], shard_id))
    return [
        after - before - reader.commits[shard_id].seconds
        for shards in begun.values()
        for (before, shard_id), (after, _) in itertools.pairwise(sorted(shards))
    ]


def read_recording(url: str, workers: int) -> dict[str, Any]:
    """Return the steps of every image and the seconds of every shard of a cache."""
    reader = CacheReader(url)
    spec = reader.spec
    steps = [reader.array("steps", np.asarray(spec.shard_rows(s))).tolist() for s in reader.committed]
    command = (
        f"viewgen cache --dataset {spec.dataset['name']} --method {spec.method} --limit {spec.num_images} "
        f"--shard-images {spec.shard_images}"
    )
    return {
        "command": command,
        "workers": workers,
        "date": datetime.fromtimestamp(Path(url, "zarr.json").stat().st_mtime, UTC).date().isoformat(),
        "versions": spec.versions,
        "num_views": spec.num_views,
        "shard_images": spec.shard_images,
        "seconds": [round(commit.seconds, 4) for commit in reader.commits.values()],
        "steps": steps,
    }


def run(recording: Recording, costs: dict[tuple[int, int], Any], **changes: Any) -> dict[str, Any]:
    """Simulate one scenario; shards that were drawn for another one are used again."""
    # each worker opens the log of the inversions, a finished cache of as many shards, before its first shard
    num_shards = -(-changes["num_images"] // changes["shard_images"])
    start = changes["start"] + num_shards * changes["list_record"][True]
    scenario = Scenario(**changes | {"start": start})
    key = (scenario.num_images, scenario.shard_images)
    if key not in costs:
        costs[key] = recording.shard_seconds(*key, scenario.seed)
    outcome: Outcome = simulate(scenario, costs=costs[key])
    said = {name: changes[name] for name in ("num_images", "shard_images", "num_workers")}
    rounded = {name: round(share, 5) for name, share in outcome.shares.items()}
    return {**said, "seconds": round(outcome.seconds, 2), "shares": rounded}


def sweeps(
    recording: Recording, times: dict[str, Any], *, most_images: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the simulated runs behind each picture."""
    costs: dict[tuple[int, int], Any] = {}
    calm = {**times, "start": FLEET["start"]}
    fleets = {
        "calm dynamic": calm,
        "dynamic": {**times, **FLEET},
        "static": {**times, **FLEET, "assignment": "static"},
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for fleet, settings in fleets.items():
        found[f"workers, {fleet}"] = [
            run(recording, costs, num_images=images, shard_images=512, num_workers=workers, **settings)
            for images in IMAGES
            if images <= most_images
            for workers in WORKERS
        ]
    for speed in (1.0, 10.0):
        for workers, images in ((64, 1_000_000), (1024, 10_000_000)):
            found[f"shards, {workers} workers, speed {speed:g}"] = [
                run(
                    recording, costs, num_images=min(images, most_images), shard_images=size,
                    num_workers=workers, speed=speed,
                    **times, **FLEET,
                )
                for size in SHARD_IMAGES
            ]  # fmt: skip
    for compacted in (False, True):
        found[f"log, {'compacted' if compacted else 'single'}"] = [
            run(
                recording, costs, num_images=images, shard_images=512, num_workers=1024, compacted=compacted,
                **times, **FLEET,
            )
            for images in IMAGES
            if images <= most_images
        ]  # fmt: skip
    return found


def beside_measured(recording: Recording, path: Path = RESULTS / "workers.json") -> dict[str, Any] | None:
    """Return the speed-up of two workers, simulated and measured by `workers.py`; None before it has run."""
    if not path.exists():
        return None
    measured = json.loads(path.read_text())
    images = measured["images"]
    size = measured["shard_images"]
    sizes = {"num_images": images, "shard_images": size}
    pause = load_recordings()["seconds_between_shards"]["median"]
    seconds = [
        simulate(Scenario(**sizes, num_workers=workers, pause=pause), recording).seconds for workers in (1, 2)
    ]
    return {
        "images": images,
        "shard_images": size,
        "simulated": seconds[0] / seconds[1],
        "measured": measured["ratios"]["1 worker, 1 core / 2 workers, whole job"]["median"],
    }


@click.group()
def main() -> None:
    """Record, simulate, draw."""


@main.command()
@click.argument("urls", nargs=-1, required=True)
@click.option("--workers", multiple=True, type=int, help="How many made each cache.  [default: 1]")
def record(urls: tuple[str, ...], workers: tuple[int, ...]) -> None:
    """Write the recordings of caches; the pauses between shards are those of the last one, made on Ray."""
    pauses = seconds_between_shards(urls[-1])
    recordings = [
        read_recording(url, count) for url, count in zip(urls, workers or (1,) * len(urls), strict=True)
    ]
    document = {
        "machine": machine("torch", "ray"),
        "seconds_between_shards": {
            "recording": len(urls) - 1,
            "median": round(statistics.median(pauses), 5),
            "all": [round(pause, 4) for pause in pauses],
        },
        "recordings": recordings,
    }
    RECORDINGS.write_text(json.dumps(document, ensure_ascii=False) + "\n")
    click.echo(f"written: {RECORDINGS}; {document['seconds_between_shards']}")


@main.command()
@click.option("--most-images", default=max(IMAGES), show_default=True)
def sweep(most_images: int) -> None:
    """Simulate all scenarios."""
    recording, times = load_recording(), storage_times()
    found = sweeps(recording, times, most_images=most_images)
    document = {
        "simulated": True,
        "line": dict(zip(("image", "step", "longest"), recording.coefficients, strict=True)),
        "times": times,
        "fleet": FLEET,
        "two_workers": beside_measured(recording),
        "sweeps": found,
    }
    path = write_result("scaling", document, ("numpy", "simpy"))
    click.echo(f"written: {path}; two workers: {document['two_workers']}")
    for name, runs in found.items():
        click.echo(name)
        for one in runs:
            shares = "  ".join(f"{key} {share:.1%}" for key, share in one["shares"].items())
            click.echo(
                f"  {one['num_images']:>11,} images, S {one['shard_images']:>4}, "
                f"{one['num_workers']:>4} workers: {one['seconds']:>14,.0f} s   {shares}"
            )


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS.parents[1] / "docs" / "figures")
def draw(out: Path) -> None:
    """Draw the pictures of the last sweep."""
    from scaling_figures import draw_all

    for path in draw_all(
        json.loads((RESULTS / "scaling.json").read_text()),
        json.loads((RESULTS / "commit_log.json").read_text()),
        out,
    ):
        click.echo(path)


if __name__ == "__main__":
    main()
