"""The report of `cache`: numbers of the finished cache, missing rows, distances of the views from ε₁."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from viewgen.status import Status
from viewgen.store import CacheReader
from viewgen_pipelines.shards.driver import Stage, StageResult

__all__ = ["BOUNDARY_TOLERANCE", "CacheResult", "make_result", "report_lines"]

BOUNDARY_TOLERANCE = 0.05
# Lines of workers' notes that are printed; all are in ``--json``.
MAX_NOTES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheResult:
    """The result of `cache`.

    Attributes:
        url: URL of the cache.
        num_images: N.
        num_views: V.
        epsilon_boundary: ε₁ of the method's configuration, None if it has none.
        precision: precision of the search, None if the method has none.
        converged_share: share of all N images with status 1.
        mean_pairwise: mean distance between an image's views, None if the method does not measure it.
        seconds: wall-clock time of this run, inversions included.
        views_per_second: views made by this run per second of the view stage; None if it made none.
        quarantined: missing shards and samples, each ``{"shard", "rows": [first, last], "reason"}`` for a
            shard that was given up or ``{"shard", "row", "reason"}`` for a sample that failed.
        notes: notes of the workers: fallbacks, chosen batch sizes.
        contact_sheet: path of a picture of some images and their views; None if there is nothing to show.
        quality: measures of the views, each a JSON object; None if they were not measured.
        verdict: reasons why the views cannot be trusted; none if nothing measured speaks against them.
        estimate: estimated cost of each stage, in a dry run that asks for it.
    """

    url: str
    num_images: int
    num_views: int
    epsilon_boundary: float | None
    precision: str | None
    converged_share: float
    mean_pairwise: float | None
    seconds: float
    views_per_second: float | None
    quarantined: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    contact_sheet: str | None = None
    quality: list[dict[str, Any]] | None = None
    verdict: list[str] = field(default_factory=list)
    estimate: list[dict[str, Any]] | None = None

    @property
    def complete(self) -> bool:
        """True if every image has its views."""
        return not self.quarantined

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that ``--json`` prints."""
        document = asdict(self)
        del document["contact_sheet"]
        if self.estimate is None:
            del document["estimate"]
        return document


def make_result(stage: Stage, result: StageResult, reader: CacheReader, seconds: float) -> CacheResult:
    """Collect the numbers of a finished run."""
    spec = stage.spec
    epsilon = spec.config.get("epsilon_boundary")
    return CacheResult(
        url=reader.url,
        num_images=spec.num_images,
        num_views=spec.num_views,
        epsilon_boundary=epsilon if isinstance(epsilon, int | float) else None,
        precision=spec.config.get("precision"),
        converged_share=float((reader.status == Status.OK).sum() / spec.num_images),
        mean_pairwise=_mean(result, "mean_pairwise"),
        seconds=round(seconds, 3),
        views_per_second=(
            round(result.num_new_images * spec.num_views / result.seconds, 3)
            if result.num_new_images
            else None
        ),
        quarantined=_missing(stage, result),
        notes=_notes(result),
    )


def report_lines(stage: Stage, result: StageResult, summary: CacheResult, reader: CacheReader) -> list[str]:
    """Describe the cache in a few readable lines."""
    spec = stage.spec
    num_ok = int((reader.status == Status.OK).sum())
    num_late = int((reader.status == Status.NOT_CONVERGED).sum())
    lines = [
        f"{spec.dataset['name']} {spec.dataset['split']}, {spec.method}: {len(reader)} of {spec.num_images} "
        f"images × {spec.num_views} views in {summary.url}",
        f"  converged {num_ok}, not converged {num_late}, missing {spec.num_images - num_ok - num_late}",
    ]
    if summary.epsilon_boundary is not None and len(reader):
        lines.append(_boundary_line(summary.epsilon_boundary, reader))
    if summary.mean_pairwise is not None and spec.num_views > 1:
        context = _pairwise_context(spec.config, spec.num_views)
        lines.append(f"  mean pairwise distance {summary.mean_pairwise:.3f}{context}")
    if (error := _mean(result, "anchor_distance")) is not None:
        lines.append(
            f"  the inversions' own error: {error:.3f} from image to reconstruction{_beyond(result)}"
        )
    if (went_on := _num_continued(result)) is not None:
        lines.append(f"  searched in {summary.precision}; {went_on} images went on in float32")
    if summary.views_per_second is not None:
        lines.append(f"  {summary.views_per_second:,.1f} views per second, {summary.seconds:.1f} s in all")
    if summary.contact_sheet is not None:
        lines.append(f"  contact sheet: {summary.contact_sheet}")
    lines += [f"  {note}" for note in summary.notes[:MAX_NOTES]]
    return lines + _missing_lines(summary.quarantined)


def _missing_lines(quarantined: list[dict[str, Any]]) -> list[str]:
    lines = []
    for item in quarantined[:10]:
        place = (
            f"row {item['row']}"
            if "row" in item
            else "shard {shard} (rows {rows[0]} to {rows[1]})".format(**item)
        )
        lines.append(f"  missing: {place}: {_one_line(item['reason'])}")
    if len(quarantined) > 10:
        lines.append(f"  … and {len(quarantined) - 10} more (all of them with --json)")
    if any("rows" in item for item in quarantined):
        lines.append("  shards that were given up are tried again with a larger --max-attempts")
    return lines


def _boundary_line(epsilon: float, reader: CacheReader) -> str:
    distance = reader.distance
    misses = np.abs(distance - epsilon) > BOUNDARY_TOLERANCE
    converged = reader.status[reader.rows] == Status.OK
    num_late = int(misses[~converged].sum())
    text = (
        f"  distance from the anchor {np.nanmean(distance):.3f} ± {np.nanstd(distance):.3f} (ε₁ {epsilon:g})"
        f"; {int(misses.sum())} of {misses.size} views miss it by more than {BOUNDARY_TOLERANCE:g}"
    )
    if misses.any():
        text += f": {num_late} in images that did not converge, {int(misses.sum()) - num_late} in others"
    return text


def _pairwise_context(config: dict[str, Any], num_views: int) -> str:
    target, epsilon = config.get("epsilon_uniformity"), config.get("epsilon_boundary")
    if target is None or epsilon is None:
        return ""
    # n points at distance ε₁ from one anchor cannot be farther apart on average
    bound = epsilon * math.sqrt(2 * num_views / (num_views - 1))
    return f" (ε₂ {target:g}; at most {bound:.3f} is possible at ε₁ {epsilon:g})"


def _mean(result: StageResult, name: str) -> float | None:
    """Return the mean of a statistic of the shards, weighted by their readable rows."""
    total, weight = 0.0, 0
    for commit in result.commits.values():
        value = commit.stats.get(name)
        rows = commit.stats.get("num_ok", 0) + commit.stats.get("num_not_converged", 0)
        if value is not None:
            total, weight = total + value * rows, weight + rows
    return total / weight if weight else None


def _num_continued(result: StageResult) -> int | None:
    """Return the number of images of a bfloat16 search that went on in float32, None for another search."""
    counts = [
        commit.stats["num_continued"] for commit in result.commits.values() if "num_continued" in commit.stats
    ]
    return sum(counts) if counts else None


def _notes(result: StageResult) -> list[str]:
    """Return the workers' notes from the shards' records, each once."""
    notes = [commit.stats.get("notes", {}) for commit in result.commits.values()]
    return sorted({f"{topic}: {text}" for entry in notes for topic, text in entry.items()})


def _beyond(result: StageResult) -> str:
    """Return a line with the number of reconstructions farther from their image than ε₁."""
    stats = [commit.stats for commit in result.commits.values() if "num_anchors_beyond" in commit.stats]
    if not stats:
        return ""
    rows = sum(entry["num_ok"] + entry["num_not_converged"] for entry in stats)
    return f", beyond ε₁ in {sum(entry['num_anchors_beyond'] for entry in stats)} of {rows} images"


def _missing(stage: Stage, result: StageResult) -> list[dict[str, Any]]:
    missing: list[dict[str, Any]] = []
    for shard_id, reason in result.quarantined.items():
        rows = stage.spec.shard_rows(shard_id)
        missing.append({"shard": shard_id, "rows": [rows[0], rows[-1]], "reason": reason})
    for shard_id, commit in result.commits.items():
        missing += [
            {"shard": shard_id, "row": row, "reason": reason}
            for row, reason in sorted(commit.failures.items())
        ]
    return sorted(missing, key=lambda item: item["shard"])


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit] + "…"
