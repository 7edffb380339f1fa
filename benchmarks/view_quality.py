"""What the views of each method are worth, and what they cost: digits and fashion-mnist, one table each.

Every method makes 8 views of the same images from the same inversions. Costs are counted while the views are
made, inversions apart: images that pass through the encoder, forwards and backwards, per view (and before it
through the generator, where there is one), and views per second of one core's time, which another process on
the machine does not take from it; the script keeps to one core. Qualities are those of `viewgen measure`,
with intervals over images. The matched σ is the one whose views of these very images have the mean distance
of the first row; looking for it is no part of its cost.

    python benchmarks/view_quality.py --work FOLDER --page docs/explanation/view-quality.md

What the result's file already has, made as the script asks now, is not made again. What other encoders see of
such views is measured by `viewgen experiment seen`.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import machine
from passes import Passes

from viewgen.datasets import load_dataset
from viewgen.diagnostics.measure import Subject
from viewgen.files import write_atomically
from viewgen.memory import keep_freed_memory
from viewgen.networks.files import load_model
from viewgen.networks.weights import find_models
from viewgen.store import CacheReader
from viewgen_pipelines.cache import cache
from viewgen_pipelines.quality import view_quality

RESULT = Path(__file__).parent / "results" / "view_quality.json"
NUM_VIEWS = 8
IMAGES = {"digits": 128, "fashion-mnist": 48}
MATCHED = "W-perturb, σ matched to the first row"
# relative error of the matched distance, and caches that are made for it at most
MATCH_TOLERANCE, MATCH_TRIES = 5e-3, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method with its settings.

    Attributes:
        name: title of the row.
        method: name of the method.
        settings: its settings where they differ from the recipe.
        datasets: data sets that it is measured on.
    """

    name: str
    method: str = "wsearch"
    settings: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("digits", "fashion-mnist")


METHODS = [
    Row(name="W-search (newton)"),
    Row(name="W-search (adam)", settings={"solver": "adam"}),
    Row(name="W-boundary", method="wboundary"),
    Row(name="W-perturb, σ 0.2", method="wperturb", settings={"sigma": 0.2}),
    Row(name=MATCHED, method="wperturb"),
    Row(name="expert", method="expert"),
]
CURES = [
    Row(name=f"W-search, {title}", settings=settings, datasets=("digits",))
    for title, settings in {
        "radius 0.1": {"radius": 0.1},
        "least step 0.1": {"least_step": 0.1},
        "4 crops": {"crops": 4},
    }.items()
]
ROWS = METHODS + CURES
# column → name of a measure, or of a cost
COLUMNS = {
    "distance": "distance",
    "spread": "spread",
    "distinct of 8": "distinct_views",
    "label kept": "label_kept",
    "images with a foreign view": "images_with_foreign_view",
    "kernel distance in f": "kernel_distance[viewgen encoder]",
    "kernel distance in patches": "kernel_distance[patches]",
    "pixel diversity": "pixel_diversity",
    "rms in code space": "code_rms",
    "converged": "converged",
    "passes": "passes",
    "views/s": "views_per_second",
}
KERNEL_DISTANCES = ("kernel distance in f", "kernel distance in patches")
SHARES = {"label kept", "images with a foreign view", "converged"}


def made(dataset: str, row: Row, work: Path) -> dict[str, Any]:
    """Make the views of a row; return what they cost."""
    settings = dict(row.settings)
    if row.name == MATCHED:
        wanted = mean_distance(folder(dataset, ROWS[0], work))
        settings["sigma"] = matched(lambda sigma: perturbed(dataset, row, work, sigma), wanted)
    num_images = IMAGES[dataset]
    inversions(dataset, work)  # before the clock starts
    with Passes() as passes:
        start = time.process_time()
        result = make(dataset, row, work, settings)
        seconds = time.process_time() - start
    views = num_images * NUM_VIEWS
    return {
        "num_images": num_images,
        **passes.per_view(views),
        "views_per_second": views / seconds,
        "converged": result.converged_share,
    }


def make(dataset: str, row: Row, work: Path, settings: Mapping[str, Any]) -> Any:
    """Make the cache of a row anew."""
    more = {} if row.method == "expert" else {"inversions": inversions(dataset, work), "keep_latents": True}
    return cache(
        dataset, method=row.method, views=NUM_VIEWS, limit=IMAGES[dataset],
        out=str(folder(dataset, row, work)), executor="local", overwrite=True, quality=False, quiet=True,
        **more, **settings,
    )  # fmt: skip


def perturbed(dataset: str, row: Row, work: Path, sigma: float) -> float:
    """Return the mean distance of W-perturb's views from their anchor."""
    make(dataset, row, work, {"sigma": sigma})
    return mean_distance(folder(dataset, row, work))


def mean_distance(url: Path) -> float:
    """Return the mean distance of a cache's views from their anchor."""
    return float(np.nanmean(CacheReader(str(url)).distance))


def matched(distance_of: Callable[[float], float], wanted: float) -> float:
    """Return the σ, to four digits, whose distance is `wanted` up to 0.5 %; by secants of the logarithms."""
    sigma, slope, before = 0.2, 1.0, None
    for _ in range(MATCH_TRIES):
        distance = distance_of(sigma)
        if abs(distance / wanted - 1) < MATCH_TOLERANCE:
            return sigma
        if before is not None and sigma != before[0]:
            slope = math.log(distance / before[1]) / math.log(sigma / before[0])
        before = sigma, distance
        # distances grow with σ, but their tail makes a secant uncertain
        sigma = float(f"{sigma * (wanted / distance) ** (1 / max(slope, 0.3)):.4g}")
    raise click.ClickException(f"no σ of mean distance {wanted:.3f} was found in {MATCH_TRIES} tries")


def inversions(dataset: str, work: Path) -> str:
    """Return the place of the inversions of the first images; they are made if they are not there."""
    url = str(work / dataset / f"inversions-{IMAGES[dataset]}.zarr")
    cache(dataset, method="invert", limit=IMAGES[dataset], out=url, executor="local", quiet=True)
    return url


def folder(dataset: str, row: Row, work: Path) -> Path:
    """Return the place of a row's cache."""
    return work / dataset / f"{ROWS.index(row)}-{row.method}.zarr"


def code_rms(reader: CacheReader, inversions: CacheReader) -> float:
    """Return the root mean square of the change of a code's elements, mean over views."""
    rows = reader.rows
    moved = reader.array("w_plus", rows) - inversions.array("anchor_w_plus", rows)[:, None]
    return float(np.sqrt(np.square(moved).reshape(*moved.shape[:2], -1).mean(axis=2)).mean())


def measured(dataset: str, row: Row, work: Path) -> dict[str, Any]:
    """Return the qualities of a row's views: name → value, low, high."""
    reader = CacheReader(str(folder(dataset, row, work)))
    parts: dict[str, Any] = {"cache": lambda: reader, "train": lambda: load_dataset(dataset, "train")}
    path = find_models(dataset, {"encoder"})["encoder"]
    parts["encoder"] = lambda: load_model(path, "encoder", torch.device("cpu"))
    found: dict[str, Any] = {"settings": reader.spec.config}
    if row.method != "expert":
        anchors = CacheReader(inversions(dataset, work))
        parts["inversions"] = lambda: anchors
        found["code_rms"] = [code_rms(reader, anchors)]
    subject = Subject(parts, name=reader.url, device="cpu")
    for one in view_quality(subject, num_images=len(reader)).measured:
        found[one.measure.name] = [one.measure.value, one.measure.low, one.measure.high]
    # views of the expert transform have no anchor but their image
    found["distance"] = found["reconstruction_to_view" if "inversions" in parts else "image_to_view"]
    return found


def asked(dataset: str, row: Row) -> dict[str, Any]:
    """Return what a row is made of: one that was made of something else is made again."""
    settings = {"strength": ROWS[0].name} if row.name == MATCHED else row.settings
    return {"method": row.method, "settings": settings, "num_images": IMAGES[dataset]}


def table(dataset: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return a data set's table in Markdown."""
    columns = {title: name for title, name in COLUMNS.items() if any(name in row for row in rows.values())}
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [cell(title, row.get(key)) for title, key in columns.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    first = next(iter(rows.values()))
    scale = [
        f"{title}: {cell(title, first[f'{COLUMNS[title]} of reconstructions'])} of the reconstructions, "
        f"{cell(title, first[f'{COLUMNS[title]} of shuffled pixels'][:1])} of shuffled pixels"
        for title in KERNEL_DISTANCES
    ]
    return "\n".join(
        [
            f"### {dataset}: {IMAGES[dataset]} images × {NUM_VIEWS} views",
            "",
            *lines,
            "",
            f"For scale, {'; '.join(scale)}. The classifier reads "
            f"{cell('label kept', first['classifier_accuracy'])} of the real images right.",
            "",
        ]
    )


def cell(title: str, value: Any) -> str:
    """Return a number with its interval, if it has one."""
    if value is None:
        return "–"
    numbers = value if isinstance(value, list) else [value]
    form = "{:.1%}" if title in SHARES else "{:.1f}" if title in ("distinct of 8", "passes") else "{:.3g}"
    texts = [form.format(number).replace("%", "\u00a0%") for number in numbers if number is not None]
    return (
        texts[0] if len(texts) < 3 else f"{texts[0]} ({texts[1]} to {texts[2]})".replace("\u00a0% to", " to")
    )


@click.command()
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder of the caches.")
@click.option("--out", default=RESULT, type=click.Path(path_type=Path), help="JSON file of the result.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=tuple(IMAGES),
    type=click.Choice(list(IMAGES)),
    show_default=True,
)
@click.option("--page", type=click.Path(path_type=Path), help="Replace the tables of this page.")
def main(work: Path, out: Path, datasets: tuple[str, ...], page: Path | None) -> None:
    """Measure what is missing, write the result after every row, print the tables."""
    keep_freed_memory()
    # threads that wait for each other on a busy machine burn time, which would count
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    document: dict[str, Any] = {"machine": machine("torch"), "num_images": IMAGES, "datasets": {}}
    if out.exists():
        document["datasets"] = json.loads(out.read_text("utf-8"))["datasets"]
    # the methods of every data set before the rest
    order = [(row, dataset) for rows in (METHODS, CURES) for dataset in datasets for row in rows]
    for row, dataset in order:
        rows = document["datasets"].setdefault(dataset, {})
        wanted = asked(dataset, row)
        if dataset not in row.datasets or rows.get(row.name, {}).get("asked") == wanted:
            continue
        started = time.monotonic()
        rows[row.name] = {"asked": wanted, **made(dataset, row, work), **measured(dataset, row, work)}
        write_atomically(out, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
        click.echo(f"{dataset}: {row.name}: {time.monotonic() - started:.0f} s")
    texts = []
    for dataset, rows in document["datasets"].items():
        shown = [row for row in ROWS if rows.get(row.name, {}).get("asked") == asked(dataset, row)]
        if shown:
            texts.append(table(dataset, {row.name: rows[row.name] for row in shown}))
    click.echo("\n".join(texts))
    if page is not None:
        head, marker, _ = page.read_text(encoding="utf-8").partition("<!-- tables -->")
        page.write_text(f"{head}{marker}\n\n" + "\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
