"""Alignment and log-sum-exp: E‖f₁ − f₂‖² + λ·E log Σ exp(f₁·f⁻/τ), over the other 2N − 2 views of the batch.

With λ = 2τ it is 2τ times the decoupled contrastive loss, plus 2.

Shape legend: m generated views per image, N images, D projection dimension.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang et al., 2021, section 5,
    https://arxiv.org/abs/2111.00743
"""

from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.alignment import squared_distance
from viewgen_train.objectives.contrast import Contrast, ContrastiveObjective
from viewgen_train.objectives.entry import CONSTANT_UNDER_IFM, ObjectiveEntry
from viewgen_train.objectives.objective import Outputs, weighted_mean

__all__ = ["ENTRY", "AlignLogSumExp", "AlignLogSumExpSettings"]


class AlignLogSumExpSettings(Settings):
    """Settings of alignment and log-sum-exp."""

    title = "align-logsumexp"

    temperature: float = setting(0.2, "τ", gt=0)
    logsumexp_weight: float | None = setting(None, "λ, weight of the log-sum-exp; by default 2τ", ge=0)


class AlignLogSumExp(ContrastiveObjective):
    """Alignment of two views and the log-sum-exp of all others.

    Args:
        settings: temperature τ and weight λ.
    """

    def __init__(self, settings: AlignLogSumExpSettings) -> None:
        self.temperature, weight = settings.temperature, settings.logsumexp_weight
        self.weight = 2 * settings.temperature if weight is None else weight

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits of unit vectors, whose squared distance is 2 − 2s⁺."""
        distance = 2 - 2 * contrast.temperature * contrast.positives[:, 0]
        return weighted_mean(distance + self.weight * contrast.log_negatives(), contrast.weights)

    def attraction(self, out: Outputs) -> Tensor:
        """Return the squared distances of generated and expert views, mean over both."""
        return squared_distance(out.z[0], out.z[1], out.z[2:], out.weights)


ENTRY = ObjectiveEntry(
    name="align-logsumexp",
    summary="alignment and log-sum-exp of Huang et al.",
    settings=AlignLogSumExpSettings,
    build=AlignLogSumExp,
    bears=frozenset({"A1", "A2", "hard negatives"}),
    pair_weights=True,
    reasons=CONSTANT_UNDER_IFM,
)
