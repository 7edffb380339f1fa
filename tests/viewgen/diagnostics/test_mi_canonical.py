"""Canonical coordinates: against closed forms, and what changes neither them nor the scores."""

import math

import numpy as np
import pytest
import torch

from viewgen.diagnostics.mutual_information.canonical import CanonicalCoordinates


def pairs(num_rows, rho, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rho = torch.tensor(rho, dtype=torch.float64)
    x, noise = torch.randn(2, num_rows, len(rho), generator=generator, dtype=torch.float64)
    return x, rho * x + (1 - rho**2).sqrt() * noise


def test_the_ratio_is_that_of_two_gaussians():
    """Against the densities of torch.distributions, at exact correlations."""
    found = CanonicalCoordinates(*pairs(200_000, [0.9, 0.5]))
    found.correlations.copy_(torch.tensor([0.9, 0.5]))
    u, v = pairs(5, [0.9, 0.5], seed=1)
    covariance = torch.eye(4, dtype=torch.float64)
    covariance[:2, 2:] = covariance[2:, :2] = torch.diag(found.correlations)
    normal = torch.distributions.MultivariateNormal
    joint, alone = (
        normal(torch.zeros(4).double(), covariance),
        normal(torch.zeros(2).double(), torch.eye(2).double()),
    )
    for i in range(5):
        for j in range(5):
            expected = joint.log_prob(torch.cat([u[i], v[j]])) - alone.log_prob(u[i]) - alone.log_prob(v[j])
            assert float(found.log_ratio(u, v)[i, j]) == pytest.approx(float(expected), abs=1e-9)


def test_correlations_and_mutual_information_of_gaussians():
    x, y = pairs(20_000, [0.95, 0.6, 0.0])
    found = CanonicalCoordinates(x, y[:, :2])
    assert found.sizes == (3, 2)
    assert found.correlations.numpy() == pytest.approx([0.95, 0.6], abs=0.02)
    scores = found.log_ratio(*found(x[:4000], y[:4000, :2]))
    nats = -0.5 * math.log((1 - 0.95**2) * (1 - 0.6**2))
    assert float(scores.diagonal().mean()) == pytest.approx(nats, abs=0.05)


def test_coordinates_are_white_and_do_not_see_linear_maps():
    x, y = pairs(500, [0.9, 0.3])
    y = torch.cat([y, y[:, :1] ** 2], 1)
    map_x, map_y = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain, mapped = CanonicalCoordinates(x, y), CanonicalCoordinates(x @ map_x[:2, :2] + 7, y @ map_y - 1)
    u, v = plain(x, y)
    for side in (u, v):
        assert np.cov(side.numpy().T, bias=True) == pytest.approx(np.eye(side.shape[1]), abs=1e-9)
    for found, expected in zip(mapped(x @ map_x[:2, :2] + 7, y @ map_y - 1), (u, v), strict=True):
        assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-8)


def test_chance_correlations_of_small_samples_are_taken_off():
    """Unrelated coordinates correlate by about 0.6 in 200 rows, by 1 where they outnumber the rows."""
    x, y = pairs(200, [0.0] * 20)
    assert float(CanonicalCoordinates(x, y).correlations.max()) < 0.45
    assert CanonicalCoordinates(x[:30], y[:30]).correlations.tolist() == [0.0] * 20


def test_what_is_constant_or_repeated_is_no_coordinate():
    x, y = pairs(100, [0.5, 0.5])
    wide = torch.cat([x, torch.full((100, 1), 3.0), x[:, :1] * 2 - x[:, 1:]], 1)
    found = CanonicalCoordinates(wide, y)
    assert found.sizes == (2, 2)
    assert found.correlations.numpy() == pytest.approx(
        CanonicalCoordinates(x, y).correlations.numpy(), abs=1e-9
    )


def test_a_copy_has_a_finite_ratio():
    x, _ = pairs(100, [0.5, 0.5])
    scores = CanonicalCoordinates(x, x).log_ratio(*CanonicalCoordinates(x, x)(x, x))
    assert torch.isfinite(scores).all()
    assert float(scores.diagonal().mean()) == pytest.approx(2 * (8.06 + 0.5), abs=0.1)
