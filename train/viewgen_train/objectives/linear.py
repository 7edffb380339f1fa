"""Linear contrastive loss: E[−f₁·f₂ + λ·f₁·f⁻], over the other 2N − 2 views of the batch.

It is the limit of InfoNCE for τ → ∞ and only centres the features: with λ = 1 its second term is ‖E f‖², up
to the similarities of an image with itself.

Shape legend: A anchors.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang et al., 2021, section 4,
    https://arxiv.org/abs/2111.00743
"""

from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.contrast import Contrast, ContrastiveObjective
from viewgen_train.objectives.entry import CONSTANT_UNDER_IFM, ObjectiveEntry
from viewgen_train.objectives.objective import weighted_mean

__all__ = ["ENTRY", "Linear", "LinearSettings"]


class LinearSettings(Settings):
    """Settings of the linear loss."""

    title = "linear"

    negative_weight: float = setting(1.0, "λ, weight of the similarity to negatives", ge=0)


class Linear(ContrastiveObjective):
    """Linear loss of two views; its τ is 1.

    Args:
        settings: weight λ.
    """

    def __init__(self, settings: LinearSettings) -> None:
        self.weight = settings.negative_weight

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of similarities."""
        losses = self.weight * contrast.mean_negative() - contrast.positives[:, 0]
        return weighted_mean(losses, contrast.weights)


ENTRY = ObjectiveEntry(
    name="linear",
    summary="linear contrastive loss, the limit of InfoNCE for large τ",
    settings=LinearSettings,
    build=Linear,
    bears=frozenset({"A1", "A2", "hard negatives"}),
    pair_weights=True,
    reasons=CONSTANT_UNDER_IFM,
)
