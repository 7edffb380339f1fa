"""The numbers on the pages: statistics of a cache, charts, tables."""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewgen.status import Status
from viewgen.store.summary import mean_statistic
from viewgen.terminal import shortened
from viewgen_pipelines.gallery.charts import Bars, Mark, bar_chart, bin_values
from viewgen_pipelines.gallery.index import Snapshot
from viewgen_pipelines.shards.steps import PAIRWISE_BINS

__all__ = [
    "MAX_MATRIX_VIEWS",
    "Fact",
    "Gauge",
    "charts",
    "closest_pair",
    "facts",
    "matrix",
    "provenance",
    "versus",
]

MAX_MATRIX_VIEWS = 16
_NUM_SHADES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A named number."""

    name: str
    value: str
    note: str = ""


def facts(snapshot: Snapshot) -> list[Fact]:
    """Return the numbers at the top of the overview."""
    spec, status = snapshot.spec, snapshot.columns["status"]
    num_ok = int((status == Status.OK).sum())
    num_there = len(snapshot.rows)
    found = [
        Fact(
            name="Views",
            value=f"{(num_ok + int((status == Status.NOT_CONVERGED).sum())) * spec.num_views:,}",
            note=f"{num_there:,} of {spec.num_images:,} images × {spec.num_views}, {spec.height} px",
        ),
        Fact(name="Converged", value=f"{num_ok / num_there:.1%}" if num_there else "–", note="of the images"),
    ]
    if mean := _mean_sd(snapshot.columns["distance"]):
        epsilon = snapshot.epsilon_boundary
        note = "" if epsilon is None else f"; ε₁ is {epsilon:g}"
        found.append(
            Fact(name="Distance", value=f"{mean[0]:.3f}", note=f"± {mean[1]:.3f} from the anchor{note}")
        )
    if (pairwise := mean_pairwise(snapshot)) is not None and spec.num_views > 1:
        note = "" if snapshot.epsilon_uniformity is None else f"; ε₂ is {snapshot.epsilon_uniformity:g}"
        found.append(Fact(name="Spread", value=f"{pairwise:.3f}", note=f"mean distance between views{note}"))
    if (error := stat_mean(snapshot, "anchor_distance")) is not None:
        found.append(
            Fact(name="Inversion", value=f"{error:.3f}", note="distance from image to reconstruction")
        )
    if (rate := views_per_second(snapshot)) is not None:
        found.append(Fact(name="Speed", value=f"{rate:,.3g}", note="views per second and worker"))
    num_bytes = sum(
        entry["bytes"] for commit in snapshot.commits.values() for entry in commit.objects.values()
    )
    found.append(
        Fact(name="Size", value=f"{num_bytes / 1e6:,.1f} MB", note=f"in shards of {spec.shard_images} images")
    )
    return found


def charts(snapshot: Snapshot) -> list[dict[str, str]]:
    """Return title, SVG and note of each chart on the overview."""
    columns, spec = snapshot.columns, snapshot.spec
    readable = np.isin(columns["status"], (Status.OK, Status.NOT_CONVERGED))
    epsilon = snapshot.epsilon_boundary
    marks = [] if epsilon is None else [Mark(value=epsilon, name="ε₁")]
    include = [] if epsilon is None else [epsilon]
    found = []

    def add(title: str, bars: Bars | None, note: str = "", **how: Any) -> None:
        if bars is not None and bars.outside:
            note = f"{note} {bars.outside:,} beyond the edges.".strip()
        svg = "" if bars is None and note else bar_chart(bars, title=title, **how)
        found.append({"title": title, "svg": svg, "note": note})

    if np.isfinite(columns["distance"][readable]).any():
        add(
            "Distance from the anchor",
            bin_values(columns["distance"][readable], include=include),
            marks=marks,
            noun="views",
        )
    if spec.num_views > 1 and mean_pairwise(snapshot) is not None:
        bars, note = _pairwise_bars(snapshot)
        add("Mean distance between an image's views", bars, note, marks=_pairwise_marks(snapshot))
    steps = columns["steps"][readable]
    if "max_steps" in spec.config and steps.size:
        add("Steps to converge", bin_values(steps))
    if np.isfinite(columns["inversion_error"][readable]).any():
        add("Inversion error (mean squared)", bin_values(columns["inversion_error"][readable]))
    if (margins := snapshot.scores.get("label_margin")) is not None:
        note = f"Below 0, a view is read as another class: {(margins < 0).sum():,} views."
        zero = [Mark(value=0.0, name="limit")]
        add("Label margin of the views", bin_values(margins, include=[0.0]), note, marks=zero, noun="views")
    if np.isfinite(snapshot.closest_pair).any():
        add("Closest pair of an image's views", bin_values(snapshot.closest_pair))
    rates, names, note = _throughput(snapshot)
    add("Throughput of each shard", rates, note, categories=names, noun="views/s")
    return found


def mean_pairwise(snapshot: Snapshot) -> float | None:
    """Return the mean distance between an image's views, over all readable rows; None if not measured."""
    return stat_mean(snapshot, "mean_pairwise")


def stat_mean(snapshot: Snapshot, name: str) -> float | None:
    """Return the mean of a statistic of the shards, weighted by their readable rows."""
    return mean_statistic(snapshot.commits.values(), name)


def views_per_second(snapshot: Snapshot) -> float | None:
    """Return views per second of a worker's time."""
    seconds = sum(commit.seconds for commit in snapshot.commits.values())
    rows = sum(
        commit.status.count(Status.OK) + commit.status.count(Status.NOT_CONVERGED)
        for commit in snapshot.commits.values()
    )
    return rows * snapshot.spec.num_views / seconds if seconds > 0 and rows else None


def feasible_spread(epsilon_boundary: float, num_views: int) -> float:
    """Return the largest mean pairwise distance of `num_views` points at distance ε₁ from one anchor."""
    return epsilon_boundary * math.sqrt(2 * num_views / (num_views - 1))


def provenance(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return groups of lines that describe the origin of a cache."""
    spec = snapshot.spec
    runs = sorted({commit.run_id for commit in snapshot.commits.values()} - {""})
    cache = [
        ("identity", spec.identity),
        ("seed", str(spec.seed)),
        ("arrays kept", ", ".join(spec.array_layout())),
        ("runs", ", ".join(runs) or "–"),
    ]
    retried = sorted(shard_id for shard_id, commit in snapshot.commits.items() if commit.attempt > 1)
    if retried:
        cache.append(("shards made again", ", ".join(map(str, retried))))
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        ("Cache", cache),
        (f"Method: {spec.method}", _lines(spec.config)),
        ("Data set", _lines(spec.dataset)),
        ("Networks and inversions", _lines(spec.models)),
        ("Versions", _lines(spec.versions)),
    ]
    return [
        {"title": title, "lines": lines, "open": number < 2}
        for number, (title, lines) in enumerate(groups)
        if lines
    ]


def versus(*snapshots: Snapshot) -> list[dict[str, Any]]:
    """Return the lines of the table that compares caches."""
    lines: list[tuple[str, list[str]]] = [
        ("method", [s.spec.method for s in snapshots]),
        (
            "images",
            [f"{len(s.rows):,} of {s.spec.num_images:,} × {s.spec.num_views} views" for s in snapshots],
        ),
        (
            "converged",
            [f"{(s.columns['status'] == Status.OK).sum() / max(len(s.rows), 1):.1%}" for s in snapshots],
        ),
        ("distance from the anchor", [_text(_mean_sd(s.columns["distance"])) for s in snapshots]),
        ("distance between views", [_number(mean_pairwise(s)) for s in snapshots]),
        ("steps", [_text(_steps(s), "{:.1f} ± {:.1f}") for s in snapshots]),
        (
            "inversion error",
            [_text(_mean_sd(s.columns["inversion_error"]), "{:.4g} ± {:.2g}") for s in snapshots],
        ),
        ("views per second and worker", [_number(views_per_second(s), "{:,.3g}") for s in snapshots]),
    ]
    return [{"name": name, "texts": texts} for name, texts in lines]


def matrix(distances: NDArray[np.float32] | None) -> list[dict[str, Any]]:
    """Return the rows of a table of distances `(V, V)`; empty for None."""
    if distances is None:
        return []
    num_views = len(distances)
    apart = distances[~np.eye(num_views, dtype=bool)]
    low, high = float(apart.min()), float(apart.max())
    closest = closest_pair(distances)
    rows = []
    for first in range(num_views):
        cells = []
        for second in range(num_views):
            value = float(distances[first, second])
            shade = 1 + int((_NUM_SHADES - 1) * (value - low) / (high - low)) if high > low else 1
            pair = {first + 1, second + 1}
            cells.append(
                {"text": "–", "shade": 0, "closest": False}
                if first == second
                else {
                    "text": f"{value:.3f}",
                    "shade": shade,
                    "closest": pair == {closest["first"], closest["second"]},
                }
            )
        rows.append({"cells": cells, "mean": f"{distances[first].sum() / (num_views - 1):.3f}"})
    return rows


def closest_pair(distances: NDArray[np.float32]) -> dict[str, Any]:
    """Return numbers, from 1, and distance of the closest two of V views, from distances `(V, V)`."""
    apart = np.where(np.eye(len(distances), dtype=bool), np.inf, distances)
    first, second = sorted(divmod(int(apart.argmin()), len(apart)))
    return {"first": first + 1, "second": second + 1, "distance": float(apart[first, second])}


class Gauge:
    """Draws a view's distance on a scale from 0 to the largest on the page, with ε₁ as a line."""

    def __init__(self, distances: NDArray[np.float32], epsilon: float | None) -> None:
        finite = distances[np.isfinite(distances)]
        self.epsilon = epsilon
        self.high = 1.15 * max([float(finite.max()) if finite.size else 0.0, epsilon or 0.0]) or 1.0

    def draw(self, distance: float, *, off: bool) -> str:
        """Return the gauge as SVG; empty for a distance that is not finite."""
        if not math.isfinite(distance):
            return ""
        x = 100 * distance / self.high
        line = ""
        if self.epsilon is not None:
            at = 100 * self.epsilon / self.high
            line = f'<line class="mark" x1="{at:.1f}" y1="0" x2="{at:.1f}" y2="8"/>'
        return (
            '<svg class="gauge" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            f'<line class="axis" x1="0" y1="4" x2="100" y2="4"/>'
            f'<rect class="dot{" off" if off else ""}" x="0" y="2" width="{x:.1f}" height="4"/>{line}</svg>'
        )


def _pairwise_bars(snapshot: Snapshot) -> tuple[Bars | None, str]:
    """Return the sum of the shards' counts, and a note if the cache's version stored only means."""
    counts = np.zeros(len(PAIRWISE_BINS) - 1, np.int64)
    num_without = 0
    for commit in snapshot.commits.values():
        kept = commit.stats.get("mean_pairwise_counts")
        if isinstance(kept, list) and len(kept) == len(counts):
            counts += np.array(kept, np.int64)
        else:
            num_without += 1
    if not counts.any():
        return None, "The version that made this cache kept the mean only."
    values = [*np.flatnonzero(counts).tolist()]
    for mark in _pairwise_marks(snapshot):
        values.append(int(np.searchsorted(PAIRWISE_BINS, mark.value)) - 1)
    first, last = max(min(values) - 1, 0), min(max(values) + 1, len(counts) - 1)
    bars = Bars(
        counts=counts[first : last + 1], low=float(PAIRWISE_BINS[first]), high=float(PAIRWISE_BINS[last + 1])
    )
    note = f"{num_without} shards of an older version kept the mean only." if num_without else ""
    return bars, note


def _pairwise_marks(snapshot: Snapshot) -> list[Mark]:
    marks = []
    if snapshot.epsilon_uniformity is not None:
        marks.append(Mark(value=snapshot.epsilon_uniformity, name="ε₂"))
        if snapshot.epsilon_boundary is not None and snapshot.spec.num_views > 1:
            bound = feasible_spread(snapshot.epsilon_boundary, snapshot.spec.num_views)
            marks.append(Mark(value=bound, name="possible"))
    return marks


def _throughput(snapshot: Snapshot, most: int = 80) -> tuple[Bars | None, list[str], str]:
    """Return views per second of the shards in order (neighbours merged), the shards' names, and a note."""
    commits = [commit for _, commit in sorted(snapshot.commits.items()) if commit.seconds > 0]
    if not commits:
        return None, [], ""
    views = np.array([len(commit.status) * snapshot.spec.num_views for commit in commits], np.float64)
    seconds = np.array([commit.seconds for commit in commits])
    groups = np.array_split(np.arange(len(commits)), min(most, len(commits)))
    rates = np.array([views[group].sum() / seconds[group].sum() for group in groups])
    note = "Views per second of a worker, in the order of the shards."
    ids = [commit.shard_id for commit in commits]
    ends = [(ids[group[0]], ids[group[-1]]) for group in groups]
    names = [f"shard {first}" if first == last else f"shards {first} to {last}" for first, last in ends]
    return Bars(counts=rates, low=0.0, high=float(len(commits))), names, note


def _mean_sd(values: NDArray[Any], least: float = -math.inf) -> tuple[float, float] | None:
    finite = values[np.isfinite(values) & (values >= least)].astype(np.float64)
    return (float(finite.mean()), float(finite.std())) if finite.size else None


def _steps(snapshot: Snapshot) -> tuple[float, float] | None:
    """Return mean and standard deviation of the number of updates, for methods that make any."""
    return _mean_sd(snapshot.columns["steps"], least=0) if "max_steps" in snapshot.spec.config else None


def _text(found: tuple[float, float] | None, form: str = "{:.3f} ± {:.3f}") -> str:
    return "–" if found is None else form.format(*found)


def _number(value: float | None, form: str = "{:.3f}") -> str:
    return "–" if value is None else form.format(value)


def _lines(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key, shortened(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in values.items()
    ]
