"""How long the diagnostics of a cache of 50,000 images take: `viewgen mi` and `viewgen measure`.

Beside each stands the same command on a tenth of the images. Most of an estimate is the training of its
network, which does not grow with the images, and what is compared with what is a sample of them: the ratio
tells how much of the time grows at all.

    python benchmarks/many_images.py
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
from measure import row, run_watched, write_result

FEW, MANY = 5_000, 50_000


def viewgen(*words: str) -> tuple[float, int | None]:
    """Run a command; return its seconds, and the most memory that it held."""
    started = time.perf_counter()
    _, memory = run_watched([sys.executable, "-m", "viewgen", *words])
    return time.perf_counter() - started, memory


@click.command()
@click.option("--dataset", default="fashion-mnist", show_default=True)
@click.option("--rounds", default=1, show_default=True)
def main(dataset: str, rounds: int) -> None:
    """Measure, print and write results/many_images.json."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, int | None] = {}
    with tempfile.TemporaryDirectory() as found:
        folder = Path(found)
        caches = {}
        for count in (FEW, MANY):
            caches[count] = str(folder / f"{count}.zarr")
            made = ("--executor", "local", "--no-gallery", "--no-quality", "--out", caches[count])
            images = ("--dataset", dataset, "--limit", str(count))
            viewgen("cache", *images, "--method", "expert", "--views", "4", *made)
        for number in range(rounds):
            for count, cache in caches.items():
                images = ("--dataset", dataset, "--limit", str(count))
                commands = {
                    "viewgen mi": (
                        "mi",
                        *images,
                        "--cache",
                        cache,
                        "--out",
                        str(folder / f"mi-{count}-{number}"),
                    ),
                    "viewgen measure": ("measure", cache, "--json"),
                }
                for name, words in commands.items():
                    title = f"{name}, {count:,} images"
                    took, memory[title] = viewgen(*words)
                    seconds.setdefault(title, []).append(took)
                    click.echo(f"{took:8.1f} s  {title}")
    ratios = {}
    for name in ("viewgen mi", "viewgen measure"):
        many, few = (f"{name}, {count:,} images" for count in (MANY, FEW))
        used = {title: memory[title] for title in (many, few)}
        told = f"{statistics.median(seconds[many]):.0f} s and {statistics.median(seconds[few]):.0f} s"
        ratios[f"many images: {many} / {FEW:,} images"] = row(
            seconds[many], seconds[few], quality=told, memory=used
        )
    medians = {title: statistics.median(values) for title, values in seconds.items()}
    write_result("many_images", {"ratios": ratios, "seconds": medians}, ("torch",))


if __name__ == "__main__":
    main()
