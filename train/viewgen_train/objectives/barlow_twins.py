"""Barlow Twins: the cross-correlation matrix of two views is drawn towards the identity.

Projections are centred and divided by their biased standard deviation over the batch, so that the diagonal of
equal views is 1. A dimension without variance has correlations of 0.

Shape legend: N images, D projection dimension.

References:
    Barlow Twins: Self-Supervised Learning via Redundancy Reduction, Zbontar et al., 2021,
    https://arxiv.org/abs/2103.03230
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang et al., 2021,
    https://arxiv.org/abs/2111.00743 (without centring)
"""

import torch
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.entry import NO_NEGATIVES, ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, PairObjective

__all__ = ["ENTRY", "BarlowTwins", "BarlowTwinsSettings", "cross_correlation"]

SMALLEST_DEVIATION = 1e-5


class BarlowTwinsSettings(Settings):
    """Settings of Barlow Twins."""

    title = "barlow-twins"

    off_diagonal_weight: float = setting(0.0051, "λ, weight of the correlations off the diagonal", ge=0)
    center: bool = setting(True, "whether projections are centred, or only scaled by their root mean square")


def cross_correlation(z1: Tensor, z2: Tensor, *, center: bool = True) -> Tensor:
    """Return the correlations of every dimension of one view with every dimension of the other, `(D, D)`.

    Args:
        z1, z2: projections of two views of any length, `(N, D)`.
        center: True to subtract the mean over the batch.
    """
    return _standardised(z1, center).T @ _standardised(z2, center) / len(z1)


def _standardised(z: Tensor, center: bool) -> Tensor:
    centred = z - z.mean(dim=0) if center else z
    # the bound is inside the root, whose derivative at 0 is infinite
    return centred / centred.square().mean(dim=0).clamp_min(SMALLEST_DEVIATION**2).sqrt()


class BarlowTwins(PairObjective):
    """Barlow Twins' loss of two views.

    Args:
        settings: weight λ, and whether projections are centred.
    """

    head = Head(projector="barlow", unit=False)

    def __init__(self, settings: BarlowTwinsSettings) -> None:
        self.settings = settings

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return Σ (1 − C_ii)² + λ·Σ_{i≠j} C_ij², both sums, and the number of constant dimensions."""
        matrix = cross_correlation(out.z[0], out.z[1], center=self.settings.center)
        diagonal = torch.diagonal(matrix)
        on = (1 - diagonal).square().sum()
        off = matrix.square().sum() - diagonal.square().sum()
        loss = on + self.settings.off_diagonal_weight * off
        still = (out.z[:2].std(dim=1, correction=0) < SMALLEST_DEVIATION).any(dim=0).sum()
        return {"loss": loss, "on_diagonal": on, "off_diagonal": off, "constant_dimensions": still.to(on)}


ENTRY = ObjectiveEntry(
    name="barlow-twins",
    summary="Barlow Twins: cross-correlations of dimensions drawn towards the identity",
    settings=BarlowTwinsSettings,
    build=BarlowTwins,
    bears=frozenset({"A1"}),
    reasons={
        **NO_NEGATIVES,
        "A2": "it compares dimensions over a batch, and no term of it draws two views of an image together",
    },
)
