"""Summary of a cache for `viewgen show`."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from viewgen.status import Status
from viewgen.store.commits import ShardCommit
from viewgen.store.quality import read_report
from viewgen.store.reader import CacheReader
from viewgen.store.storage import open_storage

__all__ = ["mean_statistic", "summarise_cache"]


# what the mean of pairwise distances can be, however far apart views are
_LARGEST = 1e100


def summarise_cache(url: str, storage_options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return contents, provenance and statistics of a cache as one JSON object.

    Reads the commit records and the small arrays, no views.

    Returns:
        url, identity, the specification's keys, and

        - shards: {committed, expected, images_per_shard};
        - images: {ok, not_converged, failed, absent};
        - bytes: stored bytes of committed objects;
        - seconds: sum of the shards' wall-clock times; views_per_second: per worker;
        - runs: ids of the runs that wrote it; retried_shards: shards that took more than one attempt;
        - distance, steps, inversion_error: {mean, sd, min, median, max} over readable rows, None if empty;
        - epsilon_boundary, distance_ratio (mean distance / ε₁), mean_pairwise: where known, else None;
        - quality: measures of its views, verdict and notes, where they were measured, else None.
    """
    reader = CacheReader(url, storage_options)
    spec, commits = reader.spec, list(reader.commits.values())
    counts = {code: sum(commit.status.count(code) for commit in commits) for code in Status}
    absent = spec.num_images - sum(counts[code] for code in Status if code != Status.ABSENT)
    epsilon = spec.config.get("epsilon_boundary")
    epsilon = float(epsilon) if isinstance(epsilon, int | float) else None
    distance = _statistics(reader.distance)
    seconds = sum(commit.seconds for commit in commits)
    made = (counts[Status.OK] + counts[Status.NOT_CONVERGED]) * spec.num_views
    return {
        "url": reader.url,
        "identity": spec.identity,
        **spec.to_json(),
        "shards": {
            "committed": len(commits),
            "expected": spec.num_shards,
            "images_per_shard": spec.shard_images,
        },
        "images": {
            "ok": counts[Status.OK],
            "not_converged": counts[Status.NOT_CONVERGED],
            "failed": counts[Status.FAILED],
            "absent": absent,
        },
        "bytes": sum(entry["bytes"] for commit in commits for entry in commit.objects.values()),
        "seconds": seconds,
        "views_per_second": made / seconds if seconds > 0 else None,
        "runs": sorted({commit.run_id for commit in commits}),
        "retried_shards": [commit.shard_id for commit in commits if commit.attempt > 1],
        "distance": distance,
        "steps": _statistics(reader.array("steps")),
        "inversion_error": _statistics(reader.array("inversion_error")),
        "epsilon_boundary": epsilon,
        "distance_ratio": distance["mean"] / epsilon if distance and epsilon else None,
        "mean_pairwise": mean_statistic(commits, "mean_pairwise"),
        "quality": read_report(open_storage(url, storage_options), spec),
    }


def _statistics(values: np.ndarray[Any, Any]) -> dict[str, float] | None:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return None
    return {
        "mean": float(finite.mean()),
        "sd": float(finite.std()),
        "min": float(finite.min()),
        "median": float(np.median(finite)),
        "max": float(finite.max()),
    }


def mean_statistic(commits: Iterable[ShardCommit], name: str) -> float | None:
    """Return the mean of a statistic of the shards, weighted by their readable rows; None if not measured."""
    total, weight = 0.0, 0
    for commit in commits:
        value = commit.stats.get(name)
        rows = commit.status.count(Status.OK) + commit.status.count(Status.NOT_CONVERGED)
        if isinstance(value, int | float) and abs(value) < _LARGEST and rows:
            total, weight = total + value * rows, weight + rows
    return total / weight if weight else None
