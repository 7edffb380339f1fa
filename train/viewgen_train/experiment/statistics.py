"""Statistics of an experiment: means over trainings, and paired differences with intervals.

The unit is a training. The seeds of a probe, and the images of a test set, say how well one encoder was
measured, not what another training would give.

References:
    Handbook of Mathematical Functions, Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4 (Student's t)
    Accounting for Variance in Machine Learning Benchmarks, Bouthillier et al., 2021,
    https://arxiv.org/abs/2103.03098
    Sample size requirements for estimating Pearson, Kendall and Spearman correlations, Bonett and Wright,
    2000, https://doi.org/10.1007/BF02294183
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import NormalDist, fmean, stdev

__all__ = [
    "Correlation",
    "Paired",
    "Spread",
    "correlation",
    "paired",
    "rank_correlation",
    "resampled_correlation",
    "spread",
    "student_quantile",
]

LEVEL = 0.95
NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Mean and standard deviation over trainings.

    Attributes:
        mean: mean.
        deviation: standard deviation with n − 1; NaN for one training.
        count: number n of trainings.
        low, high: 95 % interval of the mean by Student's t; NaN for one training.
    """

    mean: float
    deviation: float
    count: int
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Differences of two rows, seed by seed.

    Attributes:
        mean: mean difference.
        low, high: 95 % interval of the mean difference by Student's t; NaN for one pair.
        wins: number of pairs in which the first row is higher.
        ties: number of equal pairs.
        count: number n of pairs.
    """

    mean: float
    low: float
    high: float
    wins: int
    ties: int
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Correlation of two measures over rows or trainings.

    Attributes:
        r: correlation; NaN if a measure does not vary.
        low, high: 95 % interval by Fisher's transformation; NaN below four rows.
        count: number of rows or trainings.
        symbol: name of the correlation.
    """

    r: float
    low: float
    high: float
    count: int
    symbol: str = "r"


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """Return the t with P(|T| ≤ t) = `level` for Student's distribution.

    Args:
        degrees: degrees of freedom, at least 1.
        level: probability, in (0, 1).
    """
    low, high = 0.0, 1.0
    while _student_within(high, degrees) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, degrees) < level else (low, middle)
    return high


def _student_within(t: float, degrees: int) -> float:
    """Return P(|T| ≤ t), a finite sum for whole degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    if degrees == 1:
        return 2 * angle / math.pi
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def spread(values: Sequence[float]) -> Spread:
    """Return mean, deviation and interval of the values of one measure, one for each training."""
    if len(values) < 2:
        return Spread(mean=fmean(values), deviation=math.nan, count=len(values), low=math.nan, high=math.nan)
    mean, deviation = fmean(values), stdev(values)
    half = student_quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(mean=mean, deviation=deviation, count=len(values), low=mean - half, high=mean + half)


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """Return the differences first − second over the seeds that both have; None if they share none.

    Args:
        first, second: seed → value.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    gaps = [first[seed] - second[seed] for seed in seeds]
    found = spread(gaps)
    return Paired(
        mean=found.mean,
        low=found.low,
        high=found.high,
        wins=sum(gap > 0 for gap in gaps),
        ties=sum(gap == 0 for gap in gaps),
        count=len(gaps),
    )


def correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return Pearson's correlation of pairs of values."""
    count = len(x)
    mean_x, mean_y = fmean(x), fmean(y)
    spread_x = math.sqrt(sum((one - mean_x) ** 2 for one in x))
    spread_y = math.sqrt(sum((one - mean_y) ** 2 for one in y))
    if count < 2 or spread_x == 0 or spread_y == 0:
        return Correlation(r=math.nan, low=math.nan, high=math.nan, count=count)
    r = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / (spread_x * spread_y)
    r = max(-1.0, min(1.0, r))
    if count < 4 or abs(r) == 1:
        return Correlation(r=r, low=math.nan, high=math.nan, count=count)
    low, high = _fisher(r, 1 / (count - 3))
    return Correlation(r=r, low=low, high=high, count=count)


def _fisher(r: float, variance: float) -> tuple[float, float]:
    """Return the 95 % interval of a correlation whose transformation atanh r has a variance."""
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(variance)
    centre = math.atanh(r)
    return math.tanh(centre - half), math.tanh(centre + half)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Return Spearman's correlation, that of the ranks; its interval is Bonett and Wright's."""
    found = correlation(_ranks(x), _ranks(y))
    low, high = found.low, found.high
    if not math.isnan(low):
        low, high = _fisher(found.r, (1 + found.r**2 / 2) / (found.count - 3))
    return replace(found, low=low, high=high, symbol="Spearman's ρ")


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, one) + bisect_right(ordered, one) + 1) / 2 for one in values]


def resampled_correlation(
    x: Sequence[float],
    y: Sequence[float],
    correlate: Callable[[Sequence[float], Sequence[float]], Correlation] = correlation,
) -> Correlation:
    """Return a correlation with its percentile interval over 2,000 resamples of the pairs.

    It does not assume normal values, as Fisher's does. Both take the pairs as independent.

    Args:
        x, y: values of the pairs.
        correlate: `correlation` or `rank_correlation`.
    """
    found = correlate(x, y)
    if math.isnan(found.r) or found.count < 4:
        return found
    random = Random(0)
    drawn = []
    for _ in range(NUM_RESAMPLES):
        rows = random.choices(range(found.count), k=found.count)
        one = correlate([x[row] for row in rows], [y[row] for row in rows]).r
        if not math.isnan(one):
            drawn.append(one)
    drawn.sort()
    places = [round((len(drawn) - 1) * share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = (drawn[place] for place in places)
    return replace(found, low=min(low, found.r), high=max(high, found.r))
