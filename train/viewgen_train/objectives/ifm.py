"""Implicit feature modification (IFM): the loss under the worst perturbation of positives and negatives.

The perturbation of size ε that raises the loss of an anchor v most moves a positive by −εv and a negative by
+εv. Its loss is that of logits in which s⁺ − ε and s⁻ + ε take the places of s⁺ and s⁻ (eq. 2); the objective
is (L + α·L_ε) / (1 + α). Robinson et al. print a division by 2, with α = 1; their code
divides by 1 + α.

With one ε for all, the loss of an anchor is log(1 + e^{2ε/τ}·(e^ℓ − 1)), where ℓ is its plain loss: anchors
that are solved keep a gradient, and negatives keep their proportions among each other.

References:
    Can contrastive learning avoid shortcut solutions?, Robinson et al., 2021, https://arxiv.org/abs/2106.11230
"""

import logging
from typing import Any

from torch import Tensor

from viewgen_train.objectives.contrast import Contrast
from viewgen_train.objectives.negatives import NegativesCombinator
from viewgen_train.objectives.objective import Outputs
from viewgen_train.settings import TrainSettings

__all__ = ["IFM", "warn_of_large_epsilon"]

log = logging.getLogger(__name__)

# of 2ε/τ, above which a training with IFM warns
LARGEST_SHIFT = 20


class IFM(NegativesCombinator):
    """Mean of an objective's loss and its loss under the worst perturbation.

    Args:
        base: objective with negatives, or `viewgen_train.objectives.hard_negatives.HardNegatives` over one.
        epsilon: ε, size of the perturbation.
        weight: α, weight of the perturbed loss; the plain one has weight 1.
        only: True for the perturbed loss alone, the limit α → ∞.
    """

    def __init__(self, base: Any, epsilon: float, weight: float = 1.0, *, only: bool = False) -> None:
        super().__init__(base)
        self.epsilon, self.weight, self.only = epsilon, weight, only

    def contrast(self, out: Outputs) -> Contrast:
        """Return the perturbed logits."""
        perturbed: Contrast = self.base.contrast(out).shifted(self.epsilon)
        return perturbed

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the mean loss and, as ``unperturbed_loss``, that of the base."""
        perturbed = self.loss_of(self.contrast(out))
        if self.only:
            return {"loss": perturbed}
        losses: dict[str, Tensor] = self.base.loss(out)
        mean = (losses["loss"] + self.weight * perturbed) / (1 + self.weight)
        return {**losses, "loss": mean, "unperturbed_loss": losses["loss"]}


def warn_of_large_epsilon(settings: TrainSettings) -> None:
    """Warn if IFM's perturbation is so large that its loss no longer depends on how well views compare."""
    epsilon = settings.negatives.ifm_epsilon
    temperature = getattr(settings.objective.settings, "temperature", 1.0)
    if 2 * epsilon / temperature > LARGEST_SHIFT:
        log.warning(
            "ifm_epsilon is %g at a temperature of %g: with 2ε/τ = %.0f, the perturbed loss is nearly linear "
            "in the logits, and anchors that are solved pull as hard as all others; IFM's authors use 0.05 "
            "to 0.2 at 0.2 and 0.5",
            *(epsilon, temperature, 2 * epsilon / temperature),
        )
