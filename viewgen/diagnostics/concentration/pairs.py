"""Pairs of images within classes and between classes under the augmented distance.

An augmentation that maps every image to one picture has perfect concentration within classes, and no class is
left: the definition does not see it. So the same is asked of pairs of different classes. For a set of pairs,
the share with d_A ≤ δ is a curve like σ(δ), and the area under 1 − share is the mean of min(d_A, δ_max) in
shares of δ_max. The ratio of the area within classes to that between is below 1 where views of a class come
nearer to each other than to those of other classes.

Shape legend: B images, R resamples.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from viewgen.diagnostics.bootstrap import bootstrap_measure, mean_of_pairs
from viewgen.diagnostics.measure import Measure

__all__ = ["pair_measures", "pair_shares"]


def pair_measures(distance: Tensor, labels: Tensor, delta_max: float, *, seed: int, on: str) -> list[Measure]:
    """Return the areas of pairs within classes and between classes, and their ratio.

    Args:
        distance: d_A of all pairs, `(B, B)`.
        labels: class of each image, `(B,)`.
        delta_max: δ at which the areas end.
        seed: seed of the resamples.
        on: images measured.
    """
    d = distance.double().clamp_max(delta_max) / delta_max
    within, between = (mean_of_pairs(d, chosen) for chosen in _chosen(labels))
    statistics: dict[str, Callable[[Tensor], Tensor]] = {
        "within_pair_area": within,
        "between_pair_area": between,
        "pair_area_ratio": lambda counts: within(counts) / between(counts),
    }
    return [
        # both areas are too large with few views, and of their ratio nothing is known
        bootstrap_measure(
            name,
            statistic,
            len(labels),
            seed=seed,
            on=f"{on}; estimated" if name == "pair_area_ratio" else f"{on}; at most, estimated",
        )
        for name, statistic in statistics.items()
        # where all images share a view, both areas are 0 and have no ratio
        if bool(torch.isfinite(statistic(torch.ones(1, len(labels), dtype=torch.float64))).all())
    ]


def pair_shares(distance: Tensor, labels: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of pairs with d_A ≤ δ within and between classes, `(T,)` each."""
    found = []
    for chosen in _chosen(labels):
        values = distance[chosen].double().sort().values
        found.append(torch.searchsorted(values, delta, right=True) / len(values))
    return found[0], found[1]


def _chosen(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs of different images lie within classes and between them, bool `(B, B)` each."""
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same
