"""Alignment and uniformity: E‖f₁ − f₂‖^α + λ·log E exp(−t‖u − v‖²), u and v of two images.

Uniformity is computed of each view, over all pairs of images of the batch, and averaged.

Shape legend: A anchors, N images, M = N − 1 negatives of each anchor.

References:
    Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere,
    Wang and Isola, 2020, https://arxiv.org/abs/2005.10242
"""

import math

import torch
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.alignment import squared_distance
from viewgen_train.objectives.contrast import Contrast, ContrastiveObjective, without_diagonal
from viewgen_train.objectives.entry import CONSTANT_UNDER_IFM, ObjectiveEntry
from viewgen_train.objectives.objective import Outputs, weighted_mean

__all__ = ["ENTRY", "AlignUniform", "AlignUniformSettings"]


class AlignUniformSettings(Settings):
    """Settings of alignment and uniformity."""

    title = "align-uniform"

    uniformity_weight: float = setting(1.0, "λ, weight of the uniformity", ge=0)
    uniformity_scale: float = setting(2.0, "t, scale of the squared distances in the uniformity", gt=0)


class AlignUniform(ContrastiveObjective):
    """Alignment of two views, with α = 2, and uniformity of each.

    Args:
        settings: weight λ and scale t.
    """

    def __init__(self, settings: AlignUniformSettings) -> None:
        self.weight, self.scale = settings.uniformity_weight, settings.uniformity_scale
        # of unit vectors, −t‖u − v‖² = 2t·u·v − 2t
        self.temperature = 1 / (2 * self.scale)

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of each view with the same view of other images, A = 2N and M = N − 1."""
        z1, z2 = out.z[0], out.z[1]
        logits = torch.cat([without_diagonal(z @ z.T) for z in (z1, z2)]) / self.temperature
        positive = (z1 * z2).sum(dim=1).repeat(2)[:, None] / self.temperature
        weights = None if out.pair_weights is None else out.pair_weights.repeat(2)
        return Contrast(positives=positive, negatives=logits, temperature=self.temperature, weights=weights)

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits; weights of pairs act on the alignment."""
        aligned = weighted_mean(2 - 2 * self.temperature * contrast.positives[:, 0], contrast.weights)
        pooled = torch.stack(contrast.log_negatives().chunk(2))
        num_pairs = pooled.shape[1] * (pooled.shape[1] - 1)
        uniform = torch.logsumexp(pooled, dim=1).mean() - math.log(num_pairs) - 2 * self.scale
        return aligned + self.weight * uniform

    def attraction(self, out: Outputs) -> Tensor:
        """Return the squared distances of generated and expert views, mean over both."""
        return squared_distance(out.z[0], out.z[1], out.z[2:], out.weights)


ENTRY = ObjectiveEntry(
    name="align-uniform",
    summary="alignment and uniformity of Wang and Isola",
    settings=AlignUniformSettings,
    build=AlignUniform,
    bears=frozenset({"A1", "A2", "hard negatives"}),
    pair_weights=True,
    reasons=CONSTANT_UNDER_IFM,
)
