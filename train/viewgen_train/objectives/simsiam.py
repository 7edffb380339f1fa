"""SimSiam: negative cosine similarity of predictions and detached projections, without negatives.

Shape legend: N images, m generated views per image, D projection dimension.

References:
    Exploring Simple Siamese Representation Learning, Chen and He, 2021, https://arxiv.org/abs/2011.10566
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 8, https://arxiv.org/abs/2304.00601
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.settings import Settings
from viewgen_train.objectives.entry import NO_NEGATIVES, ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, PairObjective, weighted_mean

__all__ = ["ENTRY", "SimSiam", "SimSiamSettings", "attraction", "simsiam"]


class SimSiamSettings(Settings):
    """SimSiam has no settings."""

    title = "simsiam"


def _negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the negative cosines of `(…, D)` vectors; the target is detached."""
    return -F.cosine_similarity(predicted, target.detach(), dim=-1)


def simsiam(z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return SimSiam's symmetric loss.

    Args:
        z1, z2: unnormalised projections of two views, `(N, D)`.
        p1, p2: predictions of the same views, `(N, D)`.
        weights: weight of each pair, `(N,)`; None for 1.

    Returns:
        mean over the 2N anchors, `()`.
    """
    first, second = _negative_cosine(p1, z2), _negative_cosine(p2, z1)
    return (weighted_mean(first, weights) + weighted_mean(second, weights)) / 2


def attraction(z1: Tensor, z2: Tensor, generated: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the second term of A2-SimSiam (eq. 8): negative cosines of generated predictions and each z_i.

    Args:
        z1, z2: projections of the expert views, `(N, D)`.
        generated: predictions of the generated views, `(m, N, D)`.
        weights: weight of each generated view, `(m, N)`; None for 1.

    Returns:
        mean over the 2N anchors and m views, `()`.
    """
    towards = torch.stack([z1, z2])[:, None]
    return weighted_mean(_negative_cosine(generated[None], towards), weights)


class SimSiam(PairObjective):
    """SimSiam's loss of two views.

    Args:
        settings: unused; SimSiam has no settings.
    """

    head = Head(projector="simsiam", predictor=True, unit=False)

    def __init__(self, settings: SimSiamSettings) -> None:
        self.settings = settings

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views."""
        assert out.p is not None
        return {"loss": simsiam(out.z[0], out.z[1], out.p[0], out.p[1], out.pair_weights)}

    def attraction(self, out: Outputs) -> Tensor:
        """Return the attraction of the generated views in eq. 8."""
        assert out.p is not None
        return attraction(out.z[0], out.z[1], out.p[2:], out.weights)


ENTRY = ObjectiveEntry(
    name="simsiam",
    summary="SimSiam's negative cosine, without negatives",
    settings=SimSiamSettings,
    build=SimSiam,
    pair_weights=True,
    reasons=NO_NEGATIVES,
)
