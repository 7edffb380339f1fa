"""Canonical coordinates of two vectors, and the log density ratio that they would have as Gaussians.

Mutual information stays the same when either vector is scaled, shifted or rotated. In canonical coordinates
a statistics network does not see such a change either. Each vector is mapped linearly to uncorrelated
coordinates of unit variance, u and v, such that u_i correlates with v_i by ρ_i ≥ 0 and with no other. If both
vectors are Gaussian, the log density ratio of a pair is

    Σ_i [ρ_i u_i v_i − ½ρ_i²(u_i² + v_i²)] / (1 − ρ_i²) − ½ ln(1 − ρ_i²).

A network's scores start from it. It is no estimate: −½ Σ_i ln(1 − ρ_i²) enters no result. The bounds are read
off the scores of held-out pairs and hold for any score function, whether the pairs are Gaussian or not.

Shape legend: N or B images, D coordinates of a vector, R canonical coordinates, P pairs of them.

References:
    Relations Between Two Sets of Variates, Hotelling, 1936, https://doi.org/10.1093/biomet/28.3-4.321
    A New Formula for Predicting the Shrinkage of the Coefficient of Multiple Correlation, Wherry, 1931,
    https://doi.org/10.1214/aoms/1177732951
"""

import torch
from torch import Tensor, nn

__all__ = ["CanonicalCoordinates"]

# A direction with a smaller share of the variance is a rounding error of the others (float32).
SMALLEST_SHARE = 1e-10
# 1 − ρ² is read as at least this, 8 nats.
SMALLEST_RESIDUAL = 1e-7


class CanonicalCoordinates(nn.Module):
    """Canonical coordinates, fitted to a sample.

    Args:
        x, y: sample of pairs, `(N, D_x)` and `(N, D_y)`.

    Attributes:
        correlations: ρ, less the part that a sample of this size shows by chance (Wherry), float64 `(P,)`.
    """

    mean_x: Tensor
    mean_y: Tensor
    map_x: Tensor
    map_y: Tensor
    correlations: Tensor

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        x, y = x.double(), y.double()
        mean_x, white_x = _whitening(x)
        mean_y, white_y = _whitening(y)
        white_xy = ((x - mean_x) @ white_x).T @ ((y - mean_y) @ white_y) / len(x)
        left, correlations, right = torch.linalg.svd(white_xy)
        map_x, map_y = white_x @ left, white_y @ right.T
        signs_x, signs_y = _signs((x - mean_x) @ map_x, (y - mean_y) @ map_y)
        spare = len(x) - map_x.shape[1] - map_y.shape[1]
        residual = (1 - correlations.square()) * (len(x) - 1) / spare if spare > 0 else correlations * 0 + 1
        self.register_buffer("mean_x", mean_x)
        self.register_buffer("mean_y", mean_y)
        self.register_buffer("map_x", map_x * signs_x)
        self.register_buffer("map_y", map_y * signs_y)
        self.register_buffer("correlations", (1 - residual.clamp(SMALLEST_RESIDUAL, 1)).sqrt())

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of coordinates of u and of v."""
        return self.map_x.shape[1], self.map_y.shape[1]

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return u and v, float64, `(B, D_x)` and `(B', D_y)` → `(B, R_x)` and `(B', R_y)`."""
        return (x.double() - self.mean_x) @ self.map_x, (y.double() - self.mean_y) @ self.map_y

    def log_ratio(self, u: Tensor, v: Tensor) -> Tensor:
        """Return the Gaussian log density ratio of all pairs, float64 `(B, B')`."""
        rho = self.correlations
        u, v = u[:, : len(rho)], v[:, : len(rho)]
        residual = 1 - rho.square()
        squares = -rho.square() / residual / 2
        sides = (u.square() @ squares)[:, None] + v.square() @ squares
        ratio: Tensor = (u * (rho / residual)) @ v.T + sides - residual.log().sum() / 2
        return ratio


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean `(D,)` and a map `(D, R)` to R uncorrelated coordinates of unit variance."""
    mean = x.mean(dim=0)
    scale = (x - mean).square().mean(dim=0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    centred = (x - mean) * inverse
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = variances > SMALLEST_SHARE * variances.sum()
    return mean, inverse[:, None] * directions[:, kept] / variances[kept].sqrt()


def _signs(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return ±1 for each coordinate such that sums of cubes are not negative; u_i and v_i keep one sign."""
    cubes_u, cubes_v = u.pow(3).sum(dim=0), v.pow(3).sum(dim=0)
    num_pairs = min(len(cubes_u), len(cubes_v))
    both = cubes_u[:num_pairs] + cubes_v[:num_pairs]
    cubes = torch.cat([both, cubes_u[num_pairs:]]), torch.cat([both, cubes_v[num_pairs:]])
    signs_u, signs_v = (torch.where(side < 0, -1.0, 1.0).double() for side in cubes)
    return signs_u, signs_v
