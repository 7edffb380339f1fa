"""How long `viewgen mi` and `viewgen measure` take on 50,000 images, beside a tenth of them.

Two expert views of each of the first images of fashion-mnist are cached for either number. Each command then
runs once on each, with what it does by default: MINE in pairs of images, expert and cached views, and the
diagnostics of views, some of which take a sample of the images. Needs the archives of fashion-mnist, or
leaves everything out.

    python benchmarks/many_images.py
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from measure import row, run_watched, write_result

from viewgen.datasets import load_dataset
from viewgen.errors import MissingFileError

DATASET = "fashion-mnist"
MANY, FEW = 50_000, 5_000
VIEWS = ("knn", "label_kept", "alignment", "diversity", "distinct", "realism", "fidelity")


def viewgen(*arguments: str) -> tuple[float, Any, int | None]:
    """Run a command; return its seconds, the JSON that it prints, and its peak memory."""
    start = time.perf_counter()
    output, memory = run_watched([sys.executable, "-m", "viewgen", *arguments, "--json"])
    return time.perf_counter() - start, json.loads(output), memory


def make(url: str, count: int) -> None:
    """Make a cache of two expert views of each of the first images."""
    arguments = [
        "--dataset",
        DATASET,
        "--method",
        "expert",
        "--limit",
        str(count),
        "--views",
        "2",
        "--out",
        url,
    ]
    quietly = ["--executor", "local", "--no-gallery", "--no-quality", "--json"]
    command = [sys.executable, "-m", "viewgen", "cache", *arguments, *quietly]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def told(document: Any) -> str:
    """Return some of the numbers that a command found."""
    if "pairs" in document:
        return ", ".join(f"{one['x']} and {one['y']} {one['nats']:.2f} nats" for one in document["pairs"])
    names = ("knn5_top1[cosine]", "alignment")
    found = {one["name"]: one["value"] for one in document["measures"] if one["name"] in names}
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())


@click.command()
def main() -> None:
    """Measure, print and write results/many_images.json."""
    try:
        load_dataset(DATASET)
    except MissingFileError as error:
        click.echo(f"left out: {str(error).splitlines()[0]}")
        return
    seconds: dict[str, float] = {}
    runs: dict[tuple[str, int], tuple[float, Any, int | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (FEW, MANY):
            url = str(Path(folder) / f"{count}.zarr")
            make(url, count)
            chosen = [word for name in VIEWS for word in ("-d", name)]
            runs["mi", count] = viewgen(
                "mi",
                "--dataset",
                DATASET,
                "--limit",
                str(count),
                "--cache",
                url,
                "--out",
                f"{folder}/mi{count}",
            )
            runs["measure", count] = viewgen("measure", url, *chosen)
            for what in ("mi", "measure"):
                seconds[f"viewgen {what}, {count:,} images"] = runs[what, count][0]
                click.echo(f"{runs[what, count][0]:7.1f} s  viewgen {what}, {count:,} images")
    ratios = {
        f"{what}: {MANY:,} images / {FEW:,}": row(
            [runs[what, MANY][0]],
            [runs[what, FEW][0]],
            quality=f"{runs[what, MANY][0]:.0f} s; {told(runs[what, MANY][1])}",
            memory={f"{count:,} images": runs[what, count][2] for count in (MANY, FEW)},
        )
        for what in ("mi", "measure")
    }
    write_result("many_images", {"ratios": ratios, "seconds": seconds}, ("torch",))


if __name__ == "__main__":
    main()
