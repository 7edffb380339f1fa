"""How long large caches take to open: `viewgen.open` on 1,000 shards, the gallery on 1,000,000 images.

Opening reads every commit record. Beside it stands the least that any reader must do: to list the records,
read them and parse their JSON. The overview of a gallery that has just started reads the small arrays of
every shard, too; a later one, of the same cache, is what a reload or another visitor waits for.

    python benchmarks/opening.py
"""

import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
from measure import interleave, row, write_result
from random_cache import write_random_cache

import viewgen
from viewgen_pipelines.gallery.pages import Pages
from viewgen_pipelines.gallery.sources import CacheSource

NUM_SHARDS, NUM_IMAGES, SHARD_IMAGES, NUM_VIEWS = 1000, 1_000_000, 4096, 8


def parse_records(folder: Path) -> int:
    """Return the number of commit records of a cache, each of which is read and parsed."""
    return len([json.loads(path.read_bytes()) for path in sorted((folder / "commits").iterdir())])


def first_overview(folder: Path) -> Pages:
    """Return the pages of a gallery that has just started, after its first overview."""
    pages = Pages(CacheSource(url=str(folder)))
    pages.overview()
    return pages


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Measure, print and write results/opening.json."""
    with tempfile.TemporaryDirectory() as found:
        shards, images = Path(found, "shards"), Path(found, "images")
        write_random_cache(shards, NUM_SHARDS * 8, image_size=4, shard_images=8)
        random = np.random.default_rng(0)
        distance = random.normal(0.3, 0.03, (NUM_IMAGES, NUM_VIEWS)).astype(np.float32)
        write_random_cache(
            images,
            NUM_IMAGES,
            image_size=1,
            num_views=NUM_VIEWS,
            shard_images=SHARD_IMAGES,
            given={"distance": distance},
        )
        pages = first_overview(images)
        opened = "viewgen.open, 1,000 shards"
        first, later = "first overview of 1,000,000 images", "a later overview"
        contenders = {
            "records parsed": partial(parse_records, shards),
            opened: partial(viewgen.open, str(shards)),
            first: partial(first_overview, images),
            later: pages.overview,
        }
        seconds = interleave(contenders, rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        f"open: {opened} / records parsed": row(
            seconds[opened], seconds["records parsed"], quality=f"{medians[opened]:.3f} s"
        ),
        f"gallery: {first} / {later}": row(
            seconds[first], seconds[later], quality=f"{medians[first]:.2f} s and {medians[later]:.3f} s"
        ),
    }
    for name, value in medians.items():
        click.echo(f"{value:8.4f} s  {name}")
    write_result("opening", {"ratios": ratios, "seconds": medians}, ("numpy", "jinja2"))


if __name__ == "__main__":
    main()
