"""VICReg: invariance of two views, a variance of each dimension of at least 1, covariances near 0.

Shape legend: N images, m generated views per image, D projection dimension.

References:
    VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning, Bardes et al., 2022,
    https://arxiv.org/abs/2105.04906
"""

import torch
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.alignment import squared_distance
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, PairObjective, weighted_mean

__all__ = ["ENTRY", "VICReg", "VICRegSettings", "covariance", "variance"]

DEVIATION_FLOOR = 1e-4


class VICRegSettings(Settings):
    """Settings of VICReg."""

    title = "vicreg"

    invariance_weight: float = setting(25.0, "λ, weight of the squared distance of two views", ge=0)
    variance_weight: float = setting(25.0, "μ, weight of the variance", ge=0)
    covariance_weight: float = setting(1.0, "ν, weight of the covariances", ge=0)


def variance(z: Tensor) -> Tensor:
    """Return the mean over dimensions of max(0, 1 − √(Var + 10⁻⁴)) of projections `(N, D)`, scalar `()`."""
    return (1 - (z.var(dim=0) + DEVIATION_FLOOR).sqrt()).clamp_min(0).mean()


def covariance(z: Tensor) -> Tensor:
    """Return the sum of squared covariances of different dimensions of `(N, D)`, divided by D, `()`."""
    centred = z - z.mean(dim=0)
    matrix = centred.T @ centred / (len(z) - 1)
    return (matrix.square().sum() - torch.diagonal(matrix).square().sum()) / z.shape[1]


class VICReg(PairObjective):
    """VICReg's loss of two views.

    Args:
        settings: weights of the three terms.
    """

    head = Head(projector="barlow", unit=False)

    def __init__(self, settings: VICRegSettings) -> None:
        self.settings = settings

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss and its three terms; weights of pairs act on the invariance."""
        z1, z2 = out.z[0], out.z[1]
        terms = {
            "invariance": weighted_mean((z1 - z2).square().mean(dim=1), out.pair_weights),
            "variance": (variance(z1) + variance(z2)) / 2,
            "covariance": covariance(z1) + covariance(z2),
        }
        weights = self.settings.to_json()
        weighted = [weights[f"{name}_weight"] * term for name, term in terms.items()]
        return {"loss": torch.stack(weighted).sum(), **terms}

    def attraction(self, out: Outputs) -> Tensor:
        """Return λ times the mean squared distance of generated and expert projections, per dimension."""
        distance = squared_distance(out.z[0], out.z[1], out.z[2:], out.weights) / out.z.shape[2]
        return self.settings.invariance_weight * distance


ENTRY = ObjectiveEntry(
    name="vicreg",
    summary="VICReg: invariance, variance and covariance",
    settings=VICRegSettings,
    build=VICReg,
    pair_weights=True,
)
