"""One worker against two on this machine: the same cache, made by `viewgen cache` on Ray, in turn.

Both make the same cache; the digests of all their objects are compared. The rate is that of the search stage
(its workers' start included), as the command reports it.

    python benchmarks/workers.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from measure import ratio, write_result

from viewgen.store import list_commits, open_storage, read_spec


def make(folder: Path, num_workers: int, num_images: int) -> dict[str, Any]:
    """Make a cache of digits; return the command's JSON."""
    out = folder / f"{num_workers}.zarr"
    command = [
        *(sys.executable, "-m", "viewgen", "cache", "--dataset", "digits", "--method", "wsearch", "--json"),
        *("--out", str(out), "--limit", str(num_images), "--workers", str(num_workers), "--overwrite"),
        # both wait for no inversion: it is made before the first round
        *("--inversions", str(folder / "inversions.zarr")),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def object_digests(url: str) -> dict[str, str]:
    """Return path → digest of every object of a cache."""
    storage = open_storage(url)
    commits = list_commits(storage, read_spec(storage))
    return {path: entry["sha256"] for commit in commits.values() for path, entry in commit.objects.items()}


@click.command()
@click.option("--images", default=512, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(images: int, rounds: int) -> None:
    """Measure, print and write the result file."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for round_number in range(rounds + 1):
            for num_workers, found in rates.items():
                document = make(folder, num_workers, images)
                if round_number:  # the first one makes the inversions
                    found.append(document["views_per_second"])
        one, two = object_digests(str(folder / "1.zarr")), object_digests(str(folder / "2.zarr"))
    identical = one == two and len(one) > 0
    document = {
        "ratios": {"views/s: 2 workers / 1 worker": ratio(rates[2], rates[1])},
        "views_per_second": rates,
        "identical": identical,
        "images": images,
    }
    path = write_result("workers", document, ("torch", "ray"))
    found_ratio = document["ratios"]["views/s: 2 workers / 1 worker"]
    click.echo(f"2 workers / 1 worker: {found_ratio['median']:.2f}; objects identical: {identical}")
    click.echo(f"written: {path}")
    if not identical:
        sys.exit(1)


if __name__ == "__main__":
    main()
