"""Prometheus metrics of a run under Ray: views, convergence, distances, times of shards.

Ray's metrics agent exports every name with the prefix ``ray_``, a counter with the suffix ``_total`` and a
histogram with the suffixes ``_bucket``, ``_sum`` and ``_count``; `exported_names` lists them for dashboards.
Ray computes a histogram's sum from the midpoints of its buckets, so means have gauges of their own.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewgen.status import Status
from viewgen.store import CacheSpec, ShardCommit
from viewgen_pipelines.names import cache_name

__all__ = ["METRICS", "MetricSpec", "RunMetrics", "ShardMetrics", "exported_names"]

_logger = logging.getLogger(__name__)
_TAGS = ("cache", "method")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: name in `ray.util.metrics`.
        kind: kind of metric.
        description: one line.
        tags: labels beside ``cache`` and ``method``.
        boundaries: boundaries of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    description: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()


METRICS = {
    metric.name: metric
    for metric in (
        MetricSpec(name="viewgen_views", kind="counter", description="Views committed."),
        MetricSpec(
            name="viewgen_images",
            kind="counter",
            description="Images committed, by status: ok, not_converged, failed.",
            tags=("status",),
        ),
        MetricSpec(
            name="viewgen_views_per_second",
            kind="gauge",
            description="Views per second of a worker, in its last shard.",
        ),
        MetricSpec(
            name="viewgen_converged_share",
            kind="gauge",
            description="Converged images of a worker's last shard, 0 to 1.",
        ),
        MetricSpec(
            name="viewgen_distance",
            kind="histogram",
            description="Mean distance of an image's views from their anchor, in the encoder's space.",
            boundaries=(*(round(0.025 * step, 3) for step in range(1, 31)), 1.0, 1.25, 1.5, 1.75),
        ),
        MetricSpec(
            name="viewgen_mean_distance",
            kind="gauge",
            description="Mean distance of the views of a worker's last shard from their anchors.",
        ),
        MetricSpec(
            name="viewgen_shard_seconds",
            kind="histogram",
            description="Seconds that a shard took.",
            boundaries=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600),
        ),
        MetricSpec(
            name="viewgen_shards_left",
            kind="gauge",
            description="Shards that the run under way has still to make.",
        ),
        MetricSpec(
            name="viewgen_shard_failures",
            kind="counter",
            description="Attempts at shards that failed, by outcome: failed, quarantined, stopped.",
            tags=("outcome",),
        ),
    )
}


def exported_names() -> set[str]:
    """Return the names of all time series in Prometheus."""
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {f"ray_{metric.name}{ending}" for metric in METRICS.values() for ending in endings[metric.kind]}


class ShardMetrics:
    """Metrics recorded in a worker, shard by shard.

    Args:
        url: URL of the cache, without credentials.
        spec: specification of the cache.
    """

    def __init__(self, url: str, spec: CacheSpec) -> None:
        self._tags = _tag_values(url, spec)
        self._num_views = spec.num_views
        in_driver = ("viewgen_shards_left", "viewgen_shard_failures")
        self._metrics = {
            name.removeprefix("viewgen_"): _create(name) for name in METRICS if name not in in_driver
        }

    def record(self, commit: ShardCommit, distances: NDArray[np.float32]) -> None:
        """Record a committed shard; a failure here is logged by the worker and does not fail the shard.

        Args:
            commit: the shard's record.
            distances: distances of the views from their anchors, `(R, V)`.
        """
        try:
            self._record(commit, distances)
        except Exception:
            _logger.exception("the metrics of shard %d could not be recorded", commit.shard_id)

    def _record(self, commit: ShardCommit, distances: NDArray[np.float32]) -> None:
        ok = commit.status.count(Status.OK)
        late = commit.status.count(Status.NOT_CONVERGED)
        failed = len(commit.status) - ok - late
        metrics = self._metrics
        for status, count in (("ok", ok), ("not_converged", late), ("failed", failed)):
            if count:
                metrics["images"].inc(count, tags={**self._tags, "status": status})
        num_views = (ok + late) * self._num_views
        if num_views:
            metrics["views"].inc(num_views, tags=self._tags)
        metrics["views_per_second"].set(num_views / max(commit.seconds, 1e-6), tags=self._tags)
        metrics["converged_share"].set(ok / len(commit.status), tags=self._tags)
        metrics["shard_seconds"].observe(max(commit.seconds, 1e-6), tags=self._tags)
        means = distances[np.isfinite(distances).all(axis=1)].mean(axis=1)
        if len(means):
            metrics["mean_distance"].set(float(means.mean()), tags=self._tags)
        for distance in means.tolist():
            metrics["distance"].observe(distance, tags=self._tags)


class RunMetrics:
    """Metrics recorded in the driver.

    Args:
        url: URL of the cache, without credentials.
        spec: specification of the cache.
    """

    def __init__(self, url: str, spec: CacheSpec) -> None:
        self._tags = _tag_values(url, spec)
        self._left = _create("viewgen_shards_left")
        self._failures = _create("viewgen_shard_failures")

    def left(self, num_shards: int) -> None:
        """Record the number of shards to be made."""
        self._left.set(num_shards, tags=self._tags)

    def failed(self, outcome: str) -> None:
        """Count an attempt that did not commit its shard."""
        self._failures.inc(1, tags={**self._tags, "outcome": outcome})


def _tag_values(url: str, spec: CacheSpec) -> dict[str, str]:
    return {"cache": cache_name(url), "method": spec.method}


def _create(name: str) -> Any:
    from ray.util import metrics

    spec = METRICS[name]
    tags = _TAGS + spec.tags
    if spec.kind == "histogram":
        return metrics.Histogram(name, spec.description, list(spec.boundaries), tags)
    kind = metrics.Counter if spec.kind == "counter" else metrics.Gauge
    return kind(name, spec.description, tags)
