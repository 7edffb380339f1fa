"""Bootstrap intervals over images: the views of an image stay together.

A statistic is a function of weights of the images, so that a resample is a vector of counts and the features
are compared once. The interval is the percentile interval of 95 %. For a statistic that is 0 on average under
equality, such as a kernel distance, it shows the spread and is no test.

Shape legend: B images, R resamples.

References:
    An Introduction to the Bootstrap, Efron and Tibshirani, 1993, chapter 13,
    https://doi.org/10.1201/9780429246593
"""

from collections.abc import Callable

import torch
from torch import Tensor

from viewgen.diagnostics.measure import Measure
from viewgen.randomness import addressed_generator

__all__ = ["bootstrap_measure", "mean_of_pairs", "mean_over_images", "resampled_counts"]

NUM_RESAMPLES = 500
LEVELS = (0.025, 0.975)

# counts of the images, float64 (R, B) → statistic (R,)
Statistic = Callable[[Tensor], Tensor]


def resampled_counts(num_images: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Tensor:
    """Return how often each image occurs in resamples with replacement, float64 `(R, B)`."""
    random = addressed_generator(seed, "bootstrap", num_images)
    drawn = torch.randint(num_images, (num_resamples, num_images), generator=random)
    counts = torch.zeros(num_resamples, num_images, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def bootstrap_measure(
    name: str, statistic: Statistic, num_images: int, *, seed: int, on: str, group: str = ""
) -> Measure:
    """Return a statistic of images with its interval.

    Args:
        name: name of the measure.
        statistic: function of the images' counts.
        num_images: B.
        seed: seed of the resamples.
        on: images measured.
        group: distinction from other measures of the name.
    """
    value = float(statistic(torch.ones(1, num_images, dtype=torch.float64))[0])
    resampled = statistic(resampled_counts(num_images, seed))
    resampled = resampled[torch.isfinite(resampled)]
    low, high = (
        torch.quantile(resampled, torch.tensor(LEVELS, dtype=torch.float64)).tolist()
        if len(resampled)
        else (value, value)
    )
    return Measure(name=name, value=value, low=min(low, value), high=max(high, value), on=on, group=group)


def mean_over_images(values: Tensor, weights: Tensor | None = None) -> Statistic:
    """Return the statistic Σ values / Σ weights of images `(B,)`; weights of 1 by default."""
    values = values.double().cpu()
    weights = torch.ones_like(values) if weights is None else weights.double().cpu()
    return lambda counts: (counts @ values) / (counts @ weights)


def mean_of_pairs(values: Tensor, chosen: Tensor | None = None) -> Statistic:
    """Return the statistic that averages `(B, B)` over pairs of two different images.

    Args:
        values: one value for each pair, `(B, B)`.
        chosen: pairs that count, bool `(B, B)`; by default all.
    """
    weights = torch.ones(values.shape, dtype=torch.float64)
    weights = (weights if chosen is None else chosen.cpu() * weights).fill_diagonal_(0)
    values = values.double().cpu() * weights

    def mean(counts: Tensor) -> Tensor:
        total = ((counts @ values) * counts).sum(dim=1)
        return total / ((counts @ weights) * counts).sum(dim=1)

    return mean
