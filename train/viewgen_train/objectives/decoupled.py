"""Decoupled contrastive learning: SimCLR's loss without the positive in the denominator.

Shape legend: A anchors.

References:
    Decoupled Contrastive Learning, Yeh et al., 2022, equation 6, https://arxiv.org/abs/2110.06848
"""

from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.contrast import Contrast, ContrastiveObjective
from viewgen_train.objectives.entry import CONSTANT_UNDER_IFM, ObjectiveEntry
from viewgen_train.objectives.objective import weighted_mean

__all__ = ["ENTRY", "Decoupled", "DecoupledSettings", "decoupled"]


class DecoupledSettings(Settings):
    """Settings of the decoupled loss."""

    title = "decoupled"

    temperature: float = setting(0.5, "τ", gt=0)


def decoupled(contrast: Contrast) -> Tensor:
    """Return −s⁺/τ + log Σ e^{s⁻/τ}, mean over the anchors, scalar `()`."""
    return weighted_mean(contrast.log_negatives() - contrast.positives[:, 0], contrast.weights)


class Decoupled(ContrastiveObjective):
    """Decoupled contrastive loss of two views.

    Args:
        settings: temperature τ.
    """

    def __init__(self, settings: DecoupledSettings) -> None:
        self.temperature = settings.temperature

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits."""
        return decoupled(contrast)


ENTRY = ObjectiveEntry(
    name="decoupled",
    summary="decoupled contrastive loss: SimCLR without the positive in the denominator",
    settings=DecoupledSettings,
    build=Decoupled,
    bears=frozenset({"A1", "A2", "hard negatives"}),
    pair_weights=True,
    reasons=CONSTANT_UNDER_IFM,
)
