"""Readouts of real-valued targets: a linear regression, the mean of neighbours; classes of several counts."""

import numpy as np
import pytest
import torch

from viewgen.diagnostics.features import Features
from viewgen.diagnostics.knn import knn_r_squared
from viewgen.diagnostics.probe import ProbeConfig, linear_probe
from viewgen.diagnostics.regression import linear_regression, r_squared, root_mean_square
from viewgen.errors import DataError


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_target_is_found_exactly():
    x, weight = 3 + 10 * numbers(200, 6), numbers(6, 2, seed=1)
    y = x @ weight + torch.tensor([1.0, -50.0])
    found = linear_regression(x[:150], y[:150])
    predicted = found.predict(x[150:])
    assert r_squared(predicted, y[150:]).min() > 1 - 1e-8
    # the smallest penalty is chosen, which leaves this share of it
    torch.testing.assert_close(found.weight.float(), weight, rtol=1e-4, atol=1e-4)
    assert root_mean_square(predicted, y[150:]).max() < 1e-2


def test_noise_has_no_r_squared_and_is_not_fitted():
    """More features than images: least squares would fit all of them, and predict nonsense."""
    x, y = numbers(60, 200), numbers(60, 1, seed=1)
    found = linear_regression(x, y)
    assert float(found.penalty) >= 1
    other, target = numbers(500, 200, seed=2), numbers(500, 1, seed=3)
    assert -0.3 < r_squared(found.predict(other), target)[0] < 0.05
    best = torch.linalg.lstsq(x, y).solution
    assert r_squared(other @ best, target)[0] < -0.3


def test_r_squared_by_its_definition():
    target = numbers(50, 3).double()
    predicted = target + 0.5 * numbers(50, 3, seed=1)
    for column in range(3):
        t, p = target[:, column].numpy(), predicted[:, column].numpy()
        expected = 1 - ((t - p) ** 2).sum() / ((t - t.mean()) ** 2).sum()
        assert r_squared(predicted, target)[column] == pytest.approx(expected)
        assert root_mean_square(predicted, target)[column] == pytest.approx(np.sqrt(((t - p) ** 2).mean()))
    mean = target.mean(dim=0).expand_as(target)
    assert r_squared(mean, target) == pytest.approx(np.zeros(3))


def test_what_cannot_be_regressed_is_refused():
    with pytest.raises(DataError, match="at least 5"):
        linear_regression(numbers(4, 2), numbers(4, 1))
    with pytest.raises(DataError, match="not finite"):
        linear_regression(numbers(9, 2), torch.full((9, 1), torch.nan))
    with pytest.raises(DataError, match="same for all images"):
        r_squared(numbers(9, 1), torch.ones(9, 1))


def test_the_mean_of_neighbours():
    x = torch.linspace(0, 1, 101)[:, None]
    train = Features(embeddings=torch.cat([x, 1 - x], dim=1), labels=torch.full((101,), -1), reals=3 * x)
    assert not train.has_classes
    (one,), (three,) = knn_r_squared(train, train.part(slice(0, 50)), neighbours=(1, 3), metric="euclidean")
    assert one == 1
    assert 0.99 < three < 1


def test_attributes_of_different_numbers_of_classes():
    """A class that an attribute lacks takes no probability: its probe is that of the attribute alone."""
    x = numbers(120, 4)
    few, many = (x[:, 0] > 0).long(), torch.bucketize(x[:, 1].contiguous(), torch.tensor([-0.7, 0.0, 0.7]))
    config = ProbeConfig(epochs=5, num_seeds=2, learning_rate=1.0, batch_size=32)
    both = Features(embeddings=x, labels=torch.stack([few, many], dim=1))
    found = linear_probe(both, both, config)
    assert torch.isneginf(found.bias[:, 0, 2:]).all()
    assert torch.isfinite(found.bias[:, 1]).all()
    assert np.isfinite(found.loss).all()
    # the first epochs of a probe that spreads its probability over absent classes cost ln 2 more
    assert found.loss[:, 0].max() < np.log(2)
    assert found.top1[:, 0].min() > 0.9
