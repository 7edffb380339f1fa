"""SimCLR: the NT-Xent loss of 2N anchors, each compared with the 2N − 1 other views.

Shape legend: N images, D projection dimension.

References:
    A Simple Framework for Contrastive Learning of Visual Representations, Chen et al., 2020, equation 1,
    https://arxiv.org/abs/2002.05709
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.contrast import ContrastiveObjective, without_diagonal
from viewgen_train.objectives.entry import ALL_COMBINATORS, ObjectiveEntry
from viewgen_train.objectives.objective import Outputs, weighted_mean

__all__ = ["ENTRY", "SimCLR", "SimCLRSettings", "simclr"]


class SimCLRSettings(Settings):
    """Settings of SimCLR."""

    title = "simclr"

    temperature: float = setting(0.5, "τ", gt=0)


def simclr(z1: Tensor, z2: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Return the NT-Xent loss.

    Args:
        z1, z2: unit vectors of two views, `(N, D)`; row i of both shows the same image.
        temperature: temperature τ.
        weights: weight of each pair, `(N,)`; None for 1.

    Returns:
        mean over the 2N anchors, `()`.
    """
    z = torch.cat([z1, z2])
    logits = without_diagonal(z @ z.T / temperature)
    positives = torch.arange(len(z), device=z.device).roll(len(z1))
    if weights is None:
        return F.cross_entropy(logits, positives)
    return weighted_mean(F.cross_entropy(logits, positives, reduction="none"), weights.repeat(2))


class SimCLR(ContrastiveObjective):
    """NT-Xent loss of two views.

    Args:
        settings: temperature τ.
    """

    def __init__(self, settings: SimCLRSettings) -> None:
        self.temperature = settings.temperature

    def num_candidates(self, num_images: int) -> int:
        """Return 2N − 1, all views but the anchor."""
        return 2 * num_images - 1

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views."""
        return {"loss": simclr(out.z[0], out.z[1], self.temperature, out.pair_weights)}


ENTRY = ObjectiveEntry(
    name="simclr",
    summary="SimCLR's NT-Xent",
    settings=SimCLRSettings,
    build=SimCLR,
    bears=ALL_COMBINATORS,
    pair_weights=True,
)
