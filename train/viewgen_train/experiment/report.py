"""Files of an experiment's results: CSV, Markdown, HTML, plots, provenance."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from viewgen.files import write_atomically
from viewgen_train.experiment.made_by import command, made_on, missing, unfinished
from viewgen_train.experiment.matrix import matrices
from viewgen_train.experiment.page import (
    Block,
    Heading,
    Items,
    Paragraph,
    Picture,
    TableBlock,
    html_text,
    markdown_text,
)
from viewgen_train.experiment.pictures import draw_pictures, drawn_before
from viewgen_train.experiment.plan import ExperimentPlan, shown_settings
from viewgen_train.experiment.results import Record, ResultFolder
from viewgen_train.experiment.sentences import sentences
from viewgen_train.experiment.summary import (
    CacheSummary,
    Summary,
    is_share,
    measure_label,
    summarise,
)
from viewgen_train.experiment.tables import accuracy_table, difference_table, trained_measures

__all__ = ["CSV_COLUMNS", "write_report"]

CSV_COLUMNS = (
    *("kind", "row", "label", "axes", "seed", "status", "measure", "group", "value", "low", "high", "on"),
    *("reason", "dataset", "split", "num_images", "scale", "cache", "cache_identity", "num_steps"),
    *("seconds", "images_per_second", "device", "threads", "viewgen", "torch", "identity"),
)
# measures of a cache that the page shows, of those that were measured
CACHE_MEASURES = (
    *("reconstruction_to_view", "spread", "label_kept", "images_with_foreign_view", "distinct_views"),
    *("pixel_diversity", "converged_share"),
)


def notes(summary: Summary) -> list[str]:
    """Return the sentences below the table of accuracies: what its figures are, as far as it has them."""
    cached = any(row.row.cache for row in summary.rows.values())
    drawn = "images, expert views and which cached view a step takes" if cached else "images and their views"
    found = [
        "± is the standard deviation over trainings, which differ in their seed: initial weights, order of "
        f"the {drawn}."
    ]
    if summary.baseline is not None:
        found.append(
            "Differences are paired by seed. Their intervals are 95 %, by Student's t over the trainings."
        )
    if cached:
        found.append(
            "All trainings of a row share one cache of views: what another cache, generator or encoder f "
            "would change is in no interval."
        )
    return [*found, "Accuracies are those of the last epoch on the test images."]


def write_report(plan: ExperimentPlan, results: ResultFolder, *, pictures: bool = True) -> list[str]:
    """Write tables, plots and provenance of all records, and return the sentences about them.

    Args:
        plan: the experiment.
        results: its folder.
        pictures: draw the plots too.
    """
    folder = results.path
    records = [one for kind in ("training", "cache", "diagnostics") for one in results.records(kind)]
    summary = summarise(plan, results)
    write_atomically(folder / "results.csv", csv_text(plan, records, summary).encode())
    write_atomically(folder / "curves.csv", _curves_text(summary).encode())
    write_atomically(folder / "experiment.toml", _merged(plan).encode())
    write_atomically(folder / "provenance.json", _provenance(plan, results, records).encode())
    drawn = draw_pictures(plan, summary, results) if pictures else drawn_before(plan, summary, results)
    words = sentences(plan, summary)
    trained = made_on([*records, *results.records("encoder")])
    blocks = page(plan, summary, words, drawn, [*trained, *_unfinished(plan, results)])
    write_atomically(folder / "table.md", markdown_text(blocks).encode())
    write_atomically(folder / "table.html", html_text(blocks, plan.document.name).encode())
    return words


def csv_text(plan: ExperimentPlan, records: Iterable[Record], summary: Summary) -> str:
    """Return a line for every record and measure; a record without numbers has one line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    data = plan.identity["dataset"]
    for record in records:
        row = plan.rows.get(record.name) if record.kind == "training" else None
        cache = row.cache if row is not None else record.name if record.kind != "training" else None
        made = None if cache is None or cache not in summary.caches else summary.caches[cache].record
        about = record.about
        common: dict[str, Any] = {
            "kind": record.kind,
            "row": record.name,
            "label": "" if row is None else row.label,
            "axes": "" if row is None or not row.axes else json.dumps(dict(row.axes), ensure_ascii=False),
            "seed": record.seed,
            "status": record.status,
            "reason": record.reason,
            "dataset": data["name"],
            "split": data["split"],
            "num_images": data["num_images"],
            "scale": plan.document.scale,
            "cache": cache,
            "cache_identity": None if made is None else made.about.get("identity"),
            "num_steps": about.get("num_steps"),
            "seconds": round(record.seconds, 2),
            "images_per_second": about.get("images_per_second"),
            "device": about.get("device"),
            "threads": about.get("threads"),
            "viewgen": about.get("versions", {}).get("viewgen"),
            "torch": about.get("versions", {}).get("torch"),
            "identity": record.identity,
        }
        for measure in record.measures:
            numbers = {"value": measure.value, "low": measure.low, "high": measure.high}
            finite = {name: repr(one) for name, one in numbers.items() if one is not None and one == one}
            writer.writerow(common | finite | {
                "measure": measure.name, "group": measure.group, "on": measure.on
            })  # fmt: skip
        if not record.measures:
            writer.writerow(common)
    return text.getvalue()


def _curves_text(summary: Summary) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "seed", "measure", "epoch", "value"))
    for name, row in summary.rows.items():
        for measure, seeds in row.curves.items():
            for seed, points in sorted(seeds.items()):
                writer.writerows((name, seed, measure, epoch, repr(value)) for epoch, value in points)
    return text.getvalue()


def _provenance(plan: ExperimentPlan, results: ResultFolder, records: Iterable[Record]) -> str:
    """Return settings, versions and digests of everything, as JSON."""
    runs: dict[str, dict[str, Any]] = {}
    for record in records:
        about = {name: value for name, value in record.about.items() if name not in ("config", "url")}
        if record.kind == "cache":
            about["config"] = record.about.get("config")
        if isinstance(about.get("cache"), dict):
            about["cache"] = {name: about["cache"][name] for name in ("identity", "method")}
        runs[f"{record.kind} {record.name} seed {record.seed}"] = about
    document = {
        **results.identity,
        "settings": {name: shown_settings(one) for name, one in plan.settings.items()},
        "results": runs,
    }
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _merged(plan: ExperimentPlan) -> str:
    """Return the experiment as one file that needs no preset and no scale."""
    document = plan.document
    scale = f", scale {document.scale}" if document.scale else ""
    return f"# {document.name}: {document.experiment.dataset}{scale}, all of it.\n\n{document.text}"


def page(
    plan: ExperimentPlan,
    summary: Summary,
    words: list[str],
    pictures: list[tuple[str, str]],
    circumstances: Sequence[str] = (),
) -> list[Block]:
    """Return the blocks of the page; `circumstances` are sentences on how and how far it was run."""
    document, data = plan.document, plan.identity["dataset"]
    about = document.experiment
    scale = f", scale {document.scale}" if document.scale else ""
    blocks: list[Block] = [Heading(f"{document.name}: {about.dataset}{scale}", 1)]
    if about.description:
        blocks.append(Paragraph(about.description))
    blocks += [
        Paragraph(f"{data['num_images']:,} images of {data['name']} ({data['split']}). Made by"),
        Paragraph(command(plan, summary), code=True),
    ]
    if summary.rows:
        blocks += [Heading("Accuracy"), accuracy_table(plan, summary), Items(notes(summary))]
        apart = difference_table(plan, summary)
        if apart is not None and summary.baseline is not None:
            title = f"Less {summary.baseline.row.label} (95 % interval), higher in"
            blocks += [Heading(title), apart]
        for title, table in matrices(plan, summary, trained_measures(summary, about.measures)):
            blocks += [Heading(title), table]
        if about.source:
            blocks.append(Paragraph(f"Published numbers: {about.source}"))
    if words:
        blocks += [Heading("What the numbers say"), Items(words)]
    blocks += [Picture(file, text) for file, text in pictures]
    if summary.caches:
        blocks += [Heading("Views"), *_cache_blocks(summary, about.measures)]
    lost = [
        f"{row.row.label}, seed {seed}: {reason}"
        for row in summary.rows.values()
        for seed, reason in sorted(row.lost.items())
    ]
    if lost:
        blocks += [Heading("Trainings without numbers"), Items(lost)]
    lacking = missing(plan, summary)
    if lacking:
        blocks += [Heading("Not run yet"), Items(lacking)]
    made = sum(cache.record.seconds for cache in summary.caches.values() if cache.record is not None)
    took = [("trainings of the rows", sum(row.seconds for row in summary.rows.values())), ("caches", made)]
    told = ", ".join(f"{what} {seconds / 3600:.2f} hours" for what, seconds in took if seconds)
    if told:
        blocks.append(Paragraph(f"Time in sum: {told}."))
    return [*blocks, *(Paragraph(one) for one in circumstances)]


def _unfinished(plan: ExperimentPlan, results: ResultFolder) -> list[str]:
    """Return a sentence about caches and diagnostics of caches that are not finished."""
    lost = unfinished(plan, results)
    return [f"Not finished: {'; '.join(f'{what} ({why})' for what, why in lost.items())}."] if lost else []


def _cache_blocks(summary: Summary, measures: Sequence[str]) -> list[Block]:
    caches = [*summary.caches.values()]
    shown = [one for one in CACHE_MEASURES if any(cache.mean(one) is not None for cache in caches)]
    titles = ["cache", "method", "views", *(measure_label(m) + (", %" if is_share(m) else "") for m in shown)]
    rows = [[*_cache_start(cache), *(_cache_cell(cache, one) for one in shown)] for cache in caches]
    blocks: list[Block] = [TableBlock(titles, rows)]
    groups = sorted({key for cache in caches for key in cache.values if key[1]})
    diagnosed = [key for key in groups if any(len(cache.values.get(key, {})) > 0 for cache in caches)]
    estimates = dict.fromkeys(name for name, _ in diagnosed if name.endswith("_nats"))
    if estimates:
        lines = [
            [cache.name, pair, *(_estimate_cell(cache, (name, pair)) for name in estimates)]
            for cache in caches
            for pair in dict.fromkeys(group for name, group in diagnosed if name in estimates)
            if any((name, pair) in cache.values for name in estimates)
        ]
        heads = [f"{name.removesuffix('_nats')}, nats" for name in estimates]
        blocks.append(TableBlock(["cache", "pair of views", *heads], lines))
    for measure in measures:
        found = dict.fromkeys(group for cache in caches for name, group in cache.values if name == measure)
        if measure in shown:  # without a group it stands in the first table
            found.pop("", None)
        if not found:
            continue
        label = measure_label(measure)
        heads = ["cache", *(f"{label}, {group}" if group else label for group in found)]
        lines = [
            [cache.name, *(_measured_cell(cache, (measure, one)) for one in found)]
            for cache in caches
            if any((measure, one) in cache.values for one in found)
        ]
        blocks.append(TableBlock(heads, lines))
    notes = [
        f"{cache.name}: {reason}"
        for cache in caches
        if cache.record is not None
        for reason in cache.record.about.get("verdict", [])
    ]
    lost = [
        f"{cache.name} {cache.record.status}: {cache.record.reason}"
        for cache in caches
        if cache.record is not None and cache.record.status != "finished"
    ]
    return [*blocks, *([Items([*notes, *lost])] if notes or lost else [])]


def _measured_cell(cache: CacheSummary, key: tuple[str, str]) -> str:
    """Return a measure of a cache, with its own interval if it was measured once."""
    values = cache.values.get(key)
    if values is None:
        return "–"
    cell = _seeds_cell(values, 3)
    interval = cache.intervals.get(key)
    return cell if interval is None or len(values) > 1 else f"{cell} ({interval[0]:.3f} to {interval[1]:.3f})"


def _estimate_cell(cache: CacheSummary, key: tuple[str, str]) -> str:
    return _seeds_cell(cache.values[key]) if key in cache.values else "–"


def _seeds_cell(values: Mapping[int, float], digits: int = 2) -> str:
    numbers = [*values.values()]
    mean = f"{sum(numbers) / len(numbers):.{digits}f}"
    if len(numbers) < 2:
        return mean
    return f"{mean} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f}, {len(numbers)} seeds)"


def _cache_start(cache: CacheSummary) -> list[str]:
    about = {} if cache.record is None else cache.record.about
    return [cache.name, str(about.get("method", "")), str(about.get("num_views", ""))]


def _cache_cell(cache: CacheSummary, measure: str) -> str:
    value = cache.mean(measure)
    if value is None:
        return ""
    return f"{100 * value:.1f}" if is_share(measure) else f"{value:.3g}"
