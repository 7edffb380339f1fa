"""Hard negatives: negatives weighted by exp(β·s⁻/τ), corrected for those that show the anchor's class.

With N negatives, weights w and R = Σ w·e^{s⁻/τ} / mean(w), the sum over negatives becomes
(R − τ⁺·N·e^{s⁺/τ}) / (1 − τ⁺), at least N·e^{−1/τ}. β = 0 is the debiased contrastive loss, β = τ⁺ = 0 the
base itself. The exponent is that of the published code, β·s/τ; Robinson et al. print β·s. Sums are taken of
logarithms, so that small τ and large β stay finite in bfloat16.

References:
    Contrastive Learning with Hard Negative Samples, Robinson et al., 2021, https://arxiv.org/abs/2010.04592
    Debiased Contrastive Learning, Chuang et al., 2020, https://arxiv.org/abs/2007.00224
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from viewgen_train.objectives.contrast import Contrast
from viewgen_train.objectives.negatives import NegativesCombinator
from viewgen_train.objectives.objective import Outputs

__all__ = ["ANNEALING_STEPS", "HardNegatives", "annealed"]

ANNEALING_STEPS = 9
"""Number of values of an annealed β, from β to 0."""


def annealed(hardness: float, progress: float) -> float:
    """Return β at a share of the training, in nine equal parts from β to 0."""
    part = min(int(progress * ANNEALING_STEPS), ANNEALING_STEPS - 1)
    return hardness * (1 - part / (ANNEALING_STEPS - 1))


class HardNegatives(NegativesCombinator):
    """An objective with weighted negatives.

    Args:
        base: objective with negatives.
        hardness: β, hardness of the negatives.
        class_prior: τ⁺, assumed share of negatives of the anchor's class.
        annealing: True to lower β to 0 over the training.
    """

    def __init__(
        self, base: Any, hardness: float, class_prior: float = 0.0, *, annealing: bool = False
    ) -> None:
        super().__init__(base)
        self.hardness, self.class_prior, self.annealing = hardness, class_prior, annealing

    def contrast(self, out: Outputs) -> Contrast:
        """Return the base's logits, with weights for the negatives."""
        hardness = annealed(self.hardness, out.progress) if self.annealing else self.hardness
        plain: Contrast = self.base.contrast(out)
        return replace(plain, hardness=hardness, class_prior=self.class_prior)

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the base's loss of weighted negatives."""
        return {"loss": self.loss_of(self.contrast(out))}
