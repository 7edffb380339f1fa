"""InfoNCE in the limit of many negatives, on n points of the sphere S^{d−1}.

With S = ZZᵀ, labels λ_ij (1 for a positive pair, 0 otherwise) and e_ij = exp(z_i·z_j / τ),

    E(Z) = −(1/(τ·c)) Σ_ij λ_ij z_i·z_j + (1/n) Σ_i log((1/n) Σ_j e_ij),

both sums with i = j. c = Σ_ij λ_ij gives the mean over positive pairs, as in Wang and Isola's limit; the
c = n² that Li et al. print makes the first term vanish for a fixed number of positives of each point.

A lifting places the d coordinates of all points among d₂ > d coordinates and fills the others with 0. It
changes neither E nor, up to the same lifting, its gradient: what is stationary stays so. Whether it is a
minimum there is told by the curvature along a new coordinate. Give point i the coordinate t_i and shrink the
others by √(1 − t_i²): E = E₀ + tᵀQt + O(t⁴) with

    G_ij = −λ_ij/(τ·c) + P_ij/(n·τ), symmetrised,  P = softmax of the rows of S/τ,
    Q = G − diag_i(Σ_j G_ij S_ij).

A negative eigenvalue of Q is a way out of the lifted optimum, and its eigenvector says which points part.

For uniform points the second term is log ₀F₁(; d/2; 1/(4τ²)), so that the optimal value is −1/τ plus that; it
tends to −1/τ + 1/(2·d·τ²) for large d. (The published ₀F₁(; d; ·) is the value in twice as many dimensions.)

Shape legend: n points, d dimensions.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, section 3 and appendix A,
    https://arxiv.org/abs/2012.09962
    Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere,
    Wang and Isola, 2020, https://arxiv.org/abs/2005.10242
"""

import math
from typing import Literal

import torch
from torch import Tensor

from viewgen.errors import UsageError

__all__ = ["Normalisation", "lift", "lifted_curvature", "lim_nce", "optimal_value"]

Normalisation = Literal["pairs", "printed"]
MOST_TERMS = 100_000


def lim_nce(
    points: Tensor, positives: Tensor, temperature: float, normalisation: Normalisation = "pairs"
) -> Tensor:
    """Return E, scalar `()`.

    Args:
        points: unit vectors Z, `(n, d)`.
        positives: λ, 1 for positive pairs and 0 for others, `(n, n)`.
        temperature: τ.
        normalisation: ``"pairs"`` for c = Σλ, ``"printed"`` for c = n².
    """
    similarity = points @ points.T / temperature
    attracted = (positives * similarity).sum() / _normaliser(positives, normalisation)
    spread = torch.logsumexp(similarity, dim=1) - math.log(len(points))
    return spread.mean() - attracted


def _normaliser(positives: Tensor, normalisation: Normalisation) -> Tensor:
    total = positives.sum() if normalisation == "pairs" else torch.tensor(float(positives.numel()))
    if float(total) <= 0:
        raise UsageError("there is no positive pair, over which the attraction would be a mean")
    return total.to(positives)


def lift(points: Tensor, places: Tensor, dim: int) -> Tensor:
    """Return points `(n, d)` in `dim` dimensions, `(n, dim)`.

    Args:
        points: Z.
        places: coordinate of each of the d old ones among the new, `(d,)`, all different.
        dim: number of new coordinates.
    """
    return points.new_zeros(len(points), dim).index_copy(1, places, points)


def lifted_curvature(
    points: Tensor, positives: Tensor, temperature: float, normalisation: Normalisation = "pairs"
) -> Tensor:
    """Return Q, `(n, n)`, the second-order change of E along a new coordinate.

    Args:
        points, positives, temperature, normalisation: see `lim_nce`.
    """
    similarity = points @ points.T
    shares = torch.softmax(similarity / temperature, dim=1)
    total = _normaliser(positives, normalisation)
    forces = shares / (len(points) * temperature) - positives / (temperature * total)
    forces = (forces + forces.T) / 2
    return forces - torch.diag((forces * similarity).sum(dim=1))


def optimal_value(dim: int, temperature: float) -> float:
    """Return the infimum of E for aligned, uniform points on S^{d−1}: −1/τ + log ₀F₁(; d/2; 1/(4τ²)).

    Args:
        dim: d.
        temperature: τ.
    """
    if dim < 1 or not temperature > 0:
        raise UsageError(f"dimension {dim} and temperature {temperature}; expected d ≥ 1 and τ > 0")
    # the series Σ_k x^k / (k!·(b)_k), all terms positive, summed from its largest
    b, x = dim / 2, 1 / (4 * temperature**2)
    logs, log_term = [0.0], 0.0
    for k in range(MOST_TERMS):
        log_term += math.log(x) - math.log(k + 1) - math.log(b + k)
        logs.append(log_term)
        if log_term < max(logs[-2], 0) - 50 and x < (k + 1) * (b + k):
            break
    most = max(logs)
    return most + math.log(math.fsum(math.exp(one - most) for one in logs)) - 1 / temperature
