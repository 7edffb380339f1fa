"""What the views of a cache are worth, for the pages: verdict, facts, and lines of a comparison."""

import re
from collections.abc import Sequence
from typing import Any

from viewgen.diagnostics.measure import Measure
from viewgen_pipelines.gallery.numbers import Fact
from viewgen_pipelines.quality import ViewQuality, verdict_line

__all__ = ["quality", "quality_facts", "quality_versus"]

NOT_MEASURED = "not measured"
# measure → words and form of its value in a comparison
_COMPARED = {
    "label_kept": ("label kept", "{:.1%}"),
    "images_with_foreign_view": ("images with a view of another class", "{:.1%}"),
    "distinct_views": ("distinct views of an image", "{:.2f}"),
    "closest_pair": ("closest pair of an image's views", "{:.3f}"),
    "duplicate_views": ("views that repeat another", "{:.1%}"),
    "pixel_diversity": ("pixel diversity", "{:.3f}"),
}
_KERNEL_DISTANCE = re.compile(r"kernel_distance\[(.*)\]")


def quality(report: dict[str, Any] | None) -> dict[str, Any]:
    """Return verdict and lines of the table of view quality; empty without a report.

    Args:
        report: measures of the views as `viewgen_pipelines.quality.ViewQuality` writes them.
    """
    if report is None:
        return {}
    found = ViewQuality.from_json(report)
    rows = []
    for row in found.measured:
        measure = row.measure
        interval = "" if measure.low is None else f"{measure.low:.3g} to {measure.high:.3g}"
        name = f"{measure.name}, {measure.group}" if measure.group else measure.name
        rows.append({"name": name, "value": f"{measure.value:.3g}", "interval": interval, "on": measure.on})
    return {"verdict": verdict_line(found.verdict), "trusted": not found.verdict, "rows": rows}


def quality_facts(report: dict[str, Any] | None) -> list[Fact]:
    """Return the measures that stand at the top of the overview; none without a report."""
    found = _measures(report)
    facts = []
    if (kept := found.get("label_kept")) is not None:
        foreign = found.get("images_with_foreign_view")
        note = "of the views"
        if foreign is not None:
            note += f"; {foreign.value:.1%} of the images have one of another class"
        facts.append(Fact(name="Label kept", value=f"{kept.value:.1%}", note=note))
    if (distinct := found.get("distinct_views")) is not None:
        facts.append(Fact(name="Distinct", value=f"{distinct.value:.1f}", note="views of an image, under f"))
    return facts


def quality_versus(reports: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Return the lines of quality in the table that compares caches, a text for each of their reports."""
    if all(report is None for report in reports):
        return []
    every = [_measures(report) for report in reports]
    names = dict.fromkeys(name for found in every for name in found)
    compared = {name: words for name, words in _COMPARED.items() if name in names}
    for name in names:
        if (space := _KERNEL_DISTANCE.fullmatch(name)) is not None:
            compared[name] = (f"kernel distance from real images, {space[1]}", "{:.3g}")
    lines: list[dict[str, Any]] = [{"name": "verdict", "texts": [_verdict(report) for report in reports]}]
    for name, (words, form) in compared.items():
        texts = [_text(found.get(name), form) for found in every]
        lines.append({"name": words, "texts": texts})
    return lines


def _measures(report: dict[str, Any] | None) -> dict[str, Measure]:
    """Return name → measure of all views together."""
    if report is None:
        return {}
    measured = ViewQuality.from_json(report).measured
    return {row.measure.name: row.measure for row in measured if not row.measure.group}


def _verdict(report: dict[str, Any] | None) -> str:
    if report is None:
        return NOT_MEASURED
    reasons = ViewQuality.from_json(report).verdict
    return f"cannot be trusted: {'; '.join(reasons)}" if reasons else "nothing speaks against them"


def _text(measure: Measure | None, form: str) -> str:
    if measure is None:
        return NOT_MEASURED
    text = form.format(measure.value)
    if measure.low is None or measure.high is None:
        return text
    return f"{text} ({form.format(measure.low)} to {form.format(measure.high)})"
