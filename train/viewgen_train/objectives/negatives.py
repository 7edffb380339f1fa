"""Base class of combinators over objectives with negatives."""

from typing import Any

from torch import Tensor

from viewgen.errors import UsageError
from viewgen_train.objectives.alignment import attraction
from viewgen_train.objectives.contrast import Contrast, Contrastive
from viewgen_train.objectives.objective import Combinator, Outputs

__all__ = ["NegativesCombinator"]


class NegativesCombinator(Combinator):
    """An objective with negatives whose logits come from another.

    Args:
        base: objective with negatives.

    Raises:
        UsageError: the base has no negatives.
    """

    def __init__(self, base: Any) -> None:
        super().__init__(base, base.num_expert, base.num_generated)
        if not isinstance(base, Contrastive):
            raise UsageError(
                f"{type(self).__name__} changes logits of negatives, and {type(base).__name__} has no "
                "negatives; choose another --objective"
            )
        self.temperature = base.temperature

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the base's loss of logits."""
        loss: Tensor = self.base.loss_of(contrast)
        return loss

    def attraction(self, out: Outputs) -> Tensor:
        """Return the base's attraction of generated views in A2, which has no negatives."""
        return attraction(self.base, out)

    def after_step(self, out: Outputs) -> None:
        """Call the base's `after_step`."""
        self.base.after_step(out)
