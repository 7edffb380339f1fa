"""Linear regression of real-valued targets on frozen features.

The penalty is chosen on a fifth of the training images; then the regression is fitted on all of them.

Shape legend: N training images, M other images, D features, R targets.

References:
    Understanding intermediate layers using linear classifier probes, Alain and Bengio, 2016,
    https://arxiv.org/abs/1610.01644
    Ridge Regression: Biased Estimation for Nonorthogonal Problems, Hoerl and Kennard, 1970,
    https://doi.org/10.1080/00401706.1970.10488634
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.errors import DataError
from viewgen.randomness import addressed_generator

__all__ = ["Regression", "linear_regression", "r_squared", "root_mean_square"]

# penalties, as multiples of the features' mean variance
PENALTIES = tuple(10.0**power for power in range(-6, 3))
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Regression:
    """A linear map from features to targets.

    Attributes:
        weight: `(D, R)`, float64.
        bias: `(R,)`, float64.
        penalty: chosen penalty of each target, as a multiple of the features' mean variance, `(R,)`.
    """

    weight: Tensor
    bias: Tensor
    penalty: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Map features `(M, D)` to predictions `(M, R)`, float64."""
        return features.double() @ self.weight + self.bias


def linear_regression(
    features: Tensor, targets: Tensor, *, seed: int = 0, held_out: Tensor | None = None
) -> Regression:
    """Fit a linear map by ridge regression.

    Args:
        features: training features, `(N, D)`.
        targets: real-valued targets, `(N, R)`.
        seed: seed of the choice of the fifth that selects the penalty.
        held_out: rows that select it, bool `(N,)`, in place of that fifth; some, but not all.

    Raises:
        DataError: fewer than five images, or a target is not finite.
    """
    if len(features) < 5:
        raise DataError(f"{len(features)} training images; a regression needs at least 5")
    if not bool(torch.isfinite(targets).all()):
        raise DataError("a real-valued target is not finite")
    x, y = features.double(), targets.double()
    if held_out is None:
        order = torch.randperm(len(x), generator=addressed_generator(seed, "regression")).to(x.device)
        held, kept = order.tensor_split([max(1, int(HELD_OUT_SHARE * len(x)))])
    else:
        held, kept = held_out.nonzero()[:, 0], (~held_out).nonzero()[:, 0]
    penalties = torch.tensor(PENALTIES, dtype=torch.float64, device=x.device)
    errors = []
    for weight, bias in _fits(x[kept], y[kept], penalties[:, None].expand(-1, y.shape[1])):
        errors.append((x[held] @ weight + bias - y[held]).square().mean(dim=0))
    chosen = penalties[torch.stack(errors).argmin(dim=0)]
    ((weight, bias),) = _fits(x, y, chosen[None])
    return Regression(weight=weight, bias=bias, penalty=chosen)


def _fits(x: Tensor, y: Tensor, penalties: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return weights `(D, R)` and biases `(R,)` for each row of penalties `(P, R)`."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    values, vectors = torch.linalg.eigh((x - mean_x).T @ (x - mean_x) / len(x))
    values = values.clamp_min(0)
    towards = vectors.T @ ((x - mean_x).T @ (y - mean_y) / len(x))
    scale = values.mean().clamp_min(torch.finfo(x.dtype).tiny)
    weights = [vectors @ (towards / (values[:, None] + scale * penalty)) for penalty in penalties]
    return [(weight, mean_y - mean_x @ weight) for weight in weights]


def r_squared(predicted: Tensor, target: Tensor) -> NDArray[np.float64]:
    """Return R² of each target, `(R,)`: 1 − squared error / variance around the mean of `target`.

    Args:
        predicted, target: `(M, R)`.

    Raises:
        DataError: a target has one value for all images, which no R² is defined for.
    """
    target = target.double()
    error = (predicted.double() - target).square().sum(dim=0)
    around = (target - target.mean(dim=0)).square().sum(dim=0)
    if bool((around == 0).any()):
        raise DataError("a real-valued target is the same for all images; its R² is not defined")
    return np.asarray((1 - error / around).cpu())


def root_mean_square(predicted: Tensor, target: Tensor) -> NDArray[np.float64]:
    """Return the root mean squared error of each target, in its unit, `(R,)`."""
    return np.asarray((predicted.double() - target.double()).square().mean(dim=0).sqrt().cpu())
