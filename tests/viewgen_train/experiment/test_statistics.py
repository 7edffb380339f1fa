"""Statistics against tables, other implementations and simulation."""

import math
from statistics import fmean

import numpy as np
import pytest

from viewgen_train.experiment.statistics import (
    correlation,
    paired,
    rank_correlation,
    resampled_correlation,
    spread,
    student_quantile,
)

# two-sided 95 %, from printed tables
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 120: 1.980}


@pytest.mark.parametrize(("degrees", "t"), TABLE.items())
def test_student(degrees, t):
    assert student_quantile(degrees) == pytest.approx(t, abs=6e-4)
    assert student_quantile(degrees, 0.99) > student_quantile(degrees)


def test_one_training_has_no_deviation():
    found = spread([0.5])
    assert (found.mean, found.count) == (0.5, 1)
    assert math.isnan(found.deviation)
    assert math.isnan(found.low)


def test_an_interval_holds_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    samples = random.normal(0.3, 2.0, (2000, 4))
    held = [one.low <= 0.3 <= one.high for one in map(spread, samples.tolist())]
    # 95 % of 2000 samples, within three standard errors
    assert fmean(held) == pytest.approx(0.95, abs=3 * (0.95 * 0.05 / 2000) ** 0.5)


def test_differences_are_paired_by_seed():
    first = {0: 0.9, 1: 0.5, 2: 0.8, 7: 0.1}
    second = {0: 0.8, 1: 0.4, 2: 0.8, 5: 1.0}
    found = paired(first, second)
    assert found is not None
    assert (found.count, found.wins, found.ties) == (3, 2, 1)
    gaps = np.array([0.1, 0.1, 0.0])
    assert found.mean == pytest.approx(gaps.mean())
    half = 4.3027 * gaps.std(ddof=1) / 3**0.5
    assert (found.low, found.high) == (pytest.approx(gaps.mean() - half, abs=1e-4),
                                       pytest.approx(gaps.mean() + half, abs=1e-4))  # fmt: skip
    assert paired({0: 0.1}, {1: 0.1}) is None


def test_correlation_is_numpys_and_fishers():
    random = np.random.default_rng(1)
    x = random.normal(size=12)
    y = x + random.normal(size=12)
    found = correlation(x.tolist(), y.tolist())
    assert found.r == pytest.approx(np.corrcoef(x, y)[0, 1])
    # Fisher: the transformed correlation has standard error 1/√(n − 3)
    assert math.atanh(found.high) - math.atanh(found.low) == pytest.approx(2 * 1.959964 / 3)
    assert math.isnan(correlation([1, 1, 1, 1], [1, 2, 3, 4]).r)
    assert math.isnan(correlation([1, 2, 3], [1, 2, 4]).low)


def test_a_rank_correlation_is_that_of_the_ranks_with_ties():
    x, y = [1.0, 2.0, 2.0, 3.0, 9.0], [5.0, 6.0, 6.0, 7.0, 100.0]
    assert rank_correlation(x, y).r == pytest.approx(1)
    assert rank_correlation(x, [-one for one in y]).r == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4, 5 and 2, 1, 3, 5, 4
    found = rank_correlation(x, [2.0, 1.0, 3.0, 5.0, 4.0])
    assert found.r == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4, 5], [2, 1, 3, 5, 4])[0, 1])
    # Bonett and Wright: the transformed correlation has variance (1 + ρ²/2)/(n − 3)
    width = math.atanh(found.high) - math.atanh(found.low)
    assert width == pytest.approx(2 * 1.959964 * math.sqrt((1 + found.r**2 / 2) / 2))
    many = np.random.default_rng(3).normal(size=(2, 40))
    resampled = resampled_correlation(many[0].tolist(), many[1].tolist(), rank_correlation)
    assert resampled.r == rank_correlation(many[0].tolist(), many[1].tolist()).r
    assert resampled.symbol == "Spearman's ρ"


def test_a_resampled_interval_is_near_fishers_and_narrows_with_pairs():
    random = np.random.default_rng(2)
    x = random.normal(size=200)
    y = x + random.normal(size=200)
    many, few = (resampled_correlation(x[:n].tolist(), y[:n].tolist()) for n in (200, 12))
    fisher = correlation(x.tolist(), y.tolist())
    assert many.r == fisher.r
    assert (many.low, many.high) == (
        pytest.approx(fisher.low, abs=0.05), pytest.approx(fisher.high, abs=0.05),
    )  # fmt: skip
    assert few.high - few.low > many.high - many.low
    assert math.isnan(resampled_correlation([1, 2, 3], [1, 2, 4]).low)
