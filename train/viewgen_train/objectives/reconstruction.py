"""Reconstructive contrastive learning (RCL): an objective plus the error of a reconstruction.

The loss is w·L_c + λ·L_r, with L_c the loss of the wrapped objective and L_r the mean over images of the
error of a decoder that rebuilds a corrupted view from the same encoder. During the warm-up it is λ·L_r alone,
so that the encoder has features of what a shortcut would suppress before instances are told apart.

References:
    Making Contrastive Learning Robust to Shortcuts, Li et al., 2020, https://arxiv.org/abs/2012.09962
"""

from typing import Any

from torch import Tensor

from viewgen_train.objectives.objective import Combinator, Outputs

__all__ = ["Reconstruction"]


class Reconstruction(Combinator):
    """An objective with a reconstruction term.

    Outputs without a reconstruction, on which learned views climb, have the loss of the base.

    Args:
        base: the objective of the views.
        weight: λ, weight of L_r.
        contrastive_weight: w, weight of L_c.
        warm_up: share of the training in which L_r is the whole loss.
        loss_scale: factor by which the trainer multiplies the whole loss; it belongs to L_c, so that λ is
            divided by it.

    Attributes:
        whole_graph: True to keep L_c in the graph with weight 0 where it does not count, as data-parallel
            processes need it.
    """

    def __init__(
        self,
        base: Any,
        weight: float,
        contrastive_weight: float = 1.0,
        warm_up: float = 0.0,
        loss_scale: float = 1.0,
    ) -> None:
        super().__init__(base, base.num_expert, base.num_generated)
        self.weight, self.contrastive_weight, self.warm_up = weight, contrastive_weight, warm_up
        self.loss_scale = loss_scale
        self.whole_graph = False

    def contrasts(self, progress: float) -> bool:
        """Return whether L_c counts after a share of the training."""
        return self.contrastive_weight > 0 and progress >= self.warm_up

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss and, as ``contrastive_loss`` and ``reconstruction_loss``, its terms.

        ``weighted_reconstruction`` is λ·L_r.
        """
        losses: dict[str, Tensor] = self.base.loss(out)
        if out.reconstruction is None:
            return losses
        contrastive, rebuilt = losses["loss"], out.reconstruction.mean()
        weighted = self.weight / self.loss_scale * rebuilt
        if self.contrasts(out.progress):
            loss = self.contrastive_weight * contrastive + weighted
        else:
            loss = weighted + 0.0 * contrastive if self.whole_graph else weighted
        terms = {"contrastive_loss": contrastive, "reconstruction_loss": rebuilt}
        return {**losses, **terms, "weighted_reconstruction": self.weight * rebuilt, "loss": loss}

    def after_step(self, out: Outputs) -> None:
        """Call the base's `after_step`, in the warm-up too: a queue then holds the latest keys."""
        self.base.after_step(out)
