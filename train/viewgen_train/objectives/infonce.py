"""InfoNCE: N×N cross-view logits, both directions averaged.

Shape legend: N images, D projection dimension.

References:
    Representation Learning with Contrastive Predictive Coding, van den Oord et al., 2018,
    https://arxiv.org/abs/1807.03748
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 5, https://arxiv.org/abs/2304.00601
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.contrast import Contrast, ContrastiveObjective
from viewgen_train.objectives.entry import ALL_COMBINATORS, ObjectiveEntry
from viewgen_train.objectives.objective import Outputs, weighted_mean

__all__ = ["ENTRY", "InfoNCE", "InfoNCESettings", "info_nce"]


class InfoNCESettings(Settings):
    """Settings of InfoNCE."""

    title = "infonce"

    temperature: float = setting(0.5, "τ", gt=0)


def info_nce(z1: Tensor, z2: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Return the InfoNCE loss.

    Args:
        z1, z2: unit vectors of two views, `(N, D)`; row i of both shows the same image.
        temperature: temperature τ.
        weights: weight of each pair, `(N,)`; None for 1.

    Returns:
        mean over the 2N anchors, `()`.
    """
    logits = z1 @ z2.T / temperature
    target = torch.arange(len(z1), device=z1.device)
    if weights is None:
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    both = torch.stack([F.cross_entropy(side, target, reduction="none") for side in (logits, logits.T)])
    return weighted_mean(both, weights)


class InfoNCE(ContrastiveObjective):
    """InfoNCE of two views.

    Args:
        settings: temperature τ.
    """

    def __init__(self, settings: InfoNCESettings) -> None:
        self.temperature = settings.temperature

    def num_candidates(self, num_images: int) -> int:
        """Return N, the other views of the batch."""
        return num_images

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views."""
        return {"loss": info_nce(out.z[0], out.z[1], self.temperature, out.pair_weights)}

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of each view with the other views of the batch, A = 2N and M = N − 1."""
        logits = out.z[0] @ out.z[1].T / self.temperature
        positive = torch.arange(len(logits), device=logits.device).repeat(2)
        weights = None if out.pair_weights is None else out.pair_weights.repeat(2)
        return Contrast.of_columns(torch.cat([logits, logits.T]), positive, self.temperature, weights)


ENTRY = ObjectiveEntry(
    name="infonce",
    summary="InfoNCE across two views",
    settings=InfoNCESettings,
    build=InfoNCE,
    bears=ALL_COMBINATORS,
    pair_weights=True,
)
