"""The attraction of generated views in A2.

Shape legend: N images, m generated views per image, D projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 3, https://arxiv.org/abs/2304.00601
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from viewgen_train.objectives.objective import Outputs, weighted_mean

__all__ = ["Assimilable", "alignment", "attraction", "squared_distance"]


def alignment(
    z1: Tensor, z2: Tensor, generated: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return L_align (eq. 3) without its weight: mean of z_i·z_p / τ over both expert views i and all p.

    Args:
        z1, z2: unit vectors of the expert views, `(N, D)`.
        generated: unit vectors of the generated views, `(m, N, D)`.
        temperature: τ.
        weights: weight of each generated view, `(m, N)`; None for 1.

    Returns:
        scalar `()`.
    """
    if weights is not None:
        generated = weights[:, :, None] * generated
    return ((z1 + z2) * generated.mean(dim=0)).sum(dim=1).mean() / (2 * temperature)


def squared_distance(z1: Tensor, z2: Tensor, generated: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared distance of generated vectors from those of both expert views.

    Args:
        z1, z2: vectors of the expert views, `(N, D)`.
        generated: vectors of the generated views, `(m, N, D)`.
        weights: weight of each generated view, `(m, N)`; None for 1.

    Returns:
        scalar `()`.
    """
    expert = torch.stack([z1, z2])[:, None]
    return weighted_mean((expert - generated).square().sum(dim=-1), weights)


@runtime_checkable
class Assimilable(Protocol):
    """An objective whose own attraction of two views takes the place of −`alignment` in A2."""

    def attraction(self, out: Outputs) -> Tensor:
        """Return the loss, without its weight α, of generated views behind two expert views, scalar `()`."""
        ...


def attraction(objective: Any, out: Outputs) -> Tensor:
    """Return the term that A2 adds to an objective's loss with the weight α, a scalar `()`.

    Args:
        objective: objective of two views, with unit projections or an attraction of its own.
        out: outputs of two expert views followed by the generated views.
    """
    if isinstance(objective, Assimilable):
        return objective.attraction(out)
    temperature = getattr(objective, "temperature", 1.0)
    return -alignment(out.z[0], out.z[1], out.z[2:], temperature, out.weights)
