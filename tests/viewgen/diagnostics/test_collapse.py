"""Measures of collapse: closed forms, invariances, and what they say of constructed collapses."""

import math

import numpy as np
import pytest
import torch

from viewgen.diagnostics.collapse import (
    collapse_warning,
    effective_rank,
    feature_measures,
    projection_measures,
    rankme,
    unit_deviation,
)


def spread(count=400, dim=8, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_spectrum(values, count=60):
    """Features `(count, len(values))` of mean 0 with these singular values."""
    x = spread(count, len(values))
    q, _ = torch.linalg.qr(x - x.mean(dim=0))
    rotation, _ = torch.linalg.qr(spread(len(values), len(values), seed=1))
    return q * torch.tensor(values, dtype=torch.float64) @ rotation


def entropy_rank(values):
    shares = np.array(values) / np.sum(values)
    return math.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("values", [[1.0], [3.0, 3.0, 3.0], [5.0, 2.0, 0.5, 0.1]])
def test_ranks_are_entropies_of_the_spectrum(values):
    x = of_spectrum(values)
    assert rankme(x) == pytest.approx(entropy_rank(values))
    assert effective_rank(x) == pytest.approx(entropy_rank(np.square(values)))
    # more dimensions than images, and rotations, change nothing
    wide = torch.cat([x[:, :], torch.zeros(len(x), 100)], dim=1)
    assert rankme(wide) == pytest.approx(rankme(x))
    assert effective_rank(wide + 7) == pytest.approx(effective_rank(x)), "the covariance has no mean"
    assert rankme(wide + 7) != pytest.approx(rankme(x))


def test_rounding_is_no_rank():
    point = torch.full((50, 6), 0.3) + 1e-9 * spread(50, 6)
    assert rankme(point.float()) == pytest.approx(1, abs=1e-3)
    assert (rankme(torch.zeros(5, 3)), effective_rank(torch.ones(5, 3))) == (0.0, 0.0)


def test_even_features_have_a_deviation_of_one():
    assert unit_deviation(spread(20_000, 16)) == pytest.approx(1, abs=0.01)
    assert unit_deviation(torch.full((9, 4), 2.0)) == pytest.approx(0, abs=1e-9)
    x = spread()
    assert unit_deviation(x * torch.rand(len(x), 1)) == pytest.approx(unit_deviation(x))


def test_alignment_and_uniformity_are_wang_and_isolas():
    z1, z2 = (torch.nn.functional.normalize(spread(30, 5, seed), dim=1) for seed in (0, 1))
    found = projection_measures(3 * z1, z2)
    assert found["alignment"] == pytest.approx(float((z1 - z2).square().sum(dim=1).mean()))
    pairs = [
        math.exp(-2 * float((z[i] - z[j]).square().sum()))
        for z in (z1, z2)
        for i in range(30)
        for j in range(i)
    ]
    halves = [math.log(np.mean(pairs[:435])), math.log(np.mean(pairs[435:]))]
    assert found["uniformity"] == pytest.approx(np.mean(halves))
    assert found["projection_rankme"] == pytest.approx(rankme(z1))
    assert found["projection_sd"] == pytest.approx(unit_deviation(z1))


def test_a_collapse_is_told_from_what_is_none():
    healthy = feature_measures(spread()) | projection_measures(spread(), spread(seed=1))
    assert collapse_warning(healthy) is None
    point = torch.ones(400, 8) + 0.01 * spread()
    warning = collapse_warning(projection_measures(point, point))
    assert "projections of all images are nearly the same" in warning
    line = spread(400, 1) * torch.ones(8) + 1e-3 * spread()
    assert "lie on one line (their RankMe is 1" in collapse_warning(projection_measures(line, line))
