"""What the views of each method are worth, and what they cost: digits and fashion-mnist, one table each.

Every method makes 8 views of the same images from the same inversions. Costs are counted while the views are
made, inversions apart: images that pass through the encoder, forwards and backwards, per view (and before it
through the generator, where there is one), and views per second of one core's time, which another process on
the machine does not take from it. Qualities are those of `viewgen measure`, with intervals over images.

    python benchmarks/view_quality.py --work FOLDER --page docs/explanation/view-quality.md

What the result's file already has is not made again.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import machine
from passes import Passes

from viewgen.datasets import load_dataset
from viewgen.diagnostics import DIAGNOSTICS
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
# of the slow solver
FEWER_IMAGES = {"digits": 32, "fashion-mnist": 16}
MATCHED = "W-perturb, σ matched to the first row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method with its settings.

    Attributes:
        name: title of the row.
        method: name of the method.
        settings: its settings where they differ from the recipe.
        datasets: data sets that it is measured on.
        num_images: data set → number of images.
    """

    name: str
    method: str = "wsearch"
    settings: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("digits", "fashion-mnist")
    num_images: dict[str, int] = field(default_factory=lambda: IMAGES)


# the quickest first, of one data set after the other
QUICK = [
    Row(name="W-search (newton)"),
    Row(name="W-boundary", method="wboundary"),
    Row(name="W-perturb, σ 0.2", method="wperturb"),
    Row(name=MATCHED, method="wperturb"),
    Row(name="expert", method="expert"),
    Row(name="W-search (newton), radius 0.1", settings={"radius": 0.1}),
]
SLOW = [
    *(
        Row(name=f"{title}, ε₁ {epsilon}", method=method, settings={"epsilon_boundary": epsilon},
            datasets=("digits",))
        for epsilon in (0.11, 0.2, 0.4)
        for title, method in (("W-search (newton)", "wsearch"), ("W-boundary", "wboundary"))
    ),
    Row(name="W-search (adam)", settings={"solver": "adam"}, num_images=FEWER_IMAGES),
]  # fmt: skip
ROWS = QUICK + SLOW
# column → name of a measure, or of a cost
COLUMNS = {
    "distance": "distance",
    "spread": "spread",
    "distinct of 8": "distinct_views",
    "label kept": "label_kept",
    "images with a foreign view": "images_with_foreign_view",
    "kernel distance in f": "kernel_distance[viewgen encoder]",
    "in patches": "kernel_distance[patches]",
    "pixel diversity": "pixel_diversity",
    "rms in code space": "code_rms",
    "converged": "converged",
    "passes": "passes",
    "views/s": "views_per_second",
}
SHARES = {"label kept", "images with a foreign view", "converged"}


def made(dataset: str, row: Row, work: Path) -> dict[str, Any]:
    """Make the views of a row; return what they cost."""
    num_images = row.num_images[dataset]
    settings = dict(row.settings)
    if row.name == MATCHED:
        settings["strength"] = f"match:{folder(dataset, ROWS[0], work)}"
    more: dict[str, Any] = {}
    # before the clock starts
    if row.method != "expert":
        more = {"inversions": inversions(dataset, num_images, work), "keep_latents": True}
    with Passes() as passes:
        start = time.process_time()
        result = cache(
            dataset, method=row.method, views=NUM_VIEWS, limit=num_images,
            out=str(folder(dataset, row, work)), executor="local", overwrite=True, quiet=True,
            **more, **settings,
        )  # fmt: skip
        seconds = time.process_time() - start
    views = num_images * NUM_VIEWS
    return {
        "num_images": num_images,
        **passes.per_view(views),
        "views_per_second": views / seconds,
        "converged": result.converged_share,
    }


def inversions(dataset: str, num_images: int, work: Path) -> str:
    """Return the place of the inversions of the first images; they are made if they are not there."""
    url = str(work / dataset / f"inversions-{num_images}.zarr")
    cache(dataset, method="invert", limit=num_images, out=url, executor="local", quiet=True)
    return url


def folder(dataset: str, row: Row, work: Path) -> Path:
    """Return the place of a row's cache."""
    return work / dataset / f"{ROWS.index(row)}-{row.method}.zarr"


def code_rms(reader: CacheReader, inversions: CacheReader) -> float:
    """Return the root mean square of the change of a code's elements, mean over views."""
    rows = reader.rows
    moved = reader.array("w_plus", rows) - inversions.array("anchor_w_plus", rows)[:, None]
    return float(np.sqrt(np.square(moved).reshape(*moved.shape[:2], -1).mean(axis=2)).mean())


def measured(dataset: str, row: Row, work: Path, encoders: tuple[str, ...]) -> dict[str, Any]:
    """Return the qualities of a row's views: name → value, low, high."""
    reader = CacheReader(str(folder(dataset, row, work)))
    parts: dict[str, Any] = {"cache": lambda: reader, "train": lambda: load_dataset(dataset, "train")}
    path = find_models(dataset, {"encoder"})["encoder"]
    parts["encoder"] = lambda: load_model(path, "encoder", torch.device("cpu"))
    found: dict[str, Any] = {"distance": [float(np.nanmean(reader.distance))]}
    if row.method != "expert":
        anchors = CacheReader(inversions(dataset, row.num_images[dataset], work))
        parts["inversions"] = lambda: anchors
        found["code_rms"] = [code_rms(reader, anchors)]
        found["settings"] = reader.spec.config
    subject = Subject(parts, name=reader.url, device="cpu")
    rows = [row.measure for row in view_quality(subject, num_images=len(reader)).measured]
    if encoders and dataset == "digits":
        given = {"encoders": encoders, "num_images": len(reader)}
        rows += DIAGNOSTICS.resolve("seen", dataset, given).build().measure(subject, 0)
    for one in rows:
        name = f"{one.name} under {one.group}" if one.group else one.name
        found[name] = [one.value, one.low, one.high]
    return found


def table(dataset: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return a data set's table in Markdown."""
    columns = {title: name for title, name in COLUMNS.items() if any(name in row for row in rows.values())}
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [cell(title, row.get(key)) for title, key in columns.items()]
        few = "" if row["num_images"] == IMAGES[dataset] else f", {row['num_images']} images"
        lines.append(f"| {name}{few} | {' | '.join(cells)} |")
    title = f"### {dataset}: {IMAGES[dataset]} images × {NUM_VIEWS} views"
    return f"{title}\n\n" + "\n".join(lines) + "\n" + seen_table(rows)


def seen_table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the table of what independent encoders see; empty if none was asked."""
    groups = sorted({key.split(" under ")[1] for row in rows.values() for key in row if " under " in key})
    others = [group for group in groups if group != "f"]
    if not others:
        return ""
    heads = ["distance under f", *(f"under {group}" for group in others)]
    heads += [f"survives {group}" for group in others]
    lines = ["", f"| | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name, row in rows.items():
        keys = [f"distance under {group}" for group in ("f", *others)]
        keys += [f"survives under {group}" for group in others]
        if keys[0] in row:
            lines.append(f"| {name} | {' | '.join(cell(key, row.get(key)) for key in keys)} |")
    return "\n".join(lines) + "\n"


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
    "--encoder",
    "encoders",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True),
    help="Encoder of digits of another seed, for `seen`; repeatable.",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=tuple(IMAGES),
    type=click.Choice(list(IMAGES)),
    show_default=True,
)
@click.option("--page", type=click.Path(path_type=Path), help="Replace the tables of this page.")
def main(
    work: Path, out: Path, encoders: tuple[str, ...], datasets: tuple[str, ...], page: Path | None
) -> None:
    """Measure what is missing, write the result after every row, print the tables."""
    keep_freed_memory()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"machine": machine("torch"), "num_images": IMAGES, "datasets": {}}
    if out.exists():
        document["datasets"] = json.loads(out.read_text("utf-8"))["datasets"]
    order = [(row, dataset) for dataset in datasets for row in QUICK]
    order += [(row, dataset) for row in SLOW for dataset in row.datasets if dataset in datasets]
    for row, dataset in order:
        rows = document["datasets"].setdefault(dataset, {})
        if row.name in rows:
            continue
        cost = made(dataset, row, work)
        rows[row.name] = {**cost, **measured(dataset, row, work, encoders)}
        write_atomically(out, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
        click.echo(f"{dataset}: {row.name}: {cost}")
    texts = []
    for dataset, rows in document["datasets"].items():
        names = [row.name for row in ROWS if row.name in rows]
        texts.append(table(dataset, {name: rows[name] for name in names}))
    click.echo("\n".join(texts))
    if page is not None:
        head, marker, _ = page.read_text(encoding="utf-8").partition("<!-- tables -->")
        page.write_text(f"{head}{marker}\n\n" + "\n".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
