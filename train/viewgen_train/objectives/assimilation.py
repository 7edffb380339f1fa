"""A1 and A2: combinators that add generated views to an objective of two views.

Shape legend: N images, m generated views per image, D projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equations 3, 7 and 8, https://arxiv.org/abs/2304.00601
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen_train.objectives.alignment import Assimilable, attraction
from viewgen_train.objectives.contrast import Counted
from viewgen_train.objectives.hard_negatives import HardNegatives
from viewgen_train.objectives.ifm import IFM
from viewgen_train.objectives.objective import Combinator, Objective, Outputs
from viewgen_train.objectives.reconstruction import Reconstruction

__all__ = ["A1", "A2", "build_objective"]


class A1(Combinator):
    """Assimilation by positives: the base loss of an expert and a generated view.

    Args:
        base: objective of two views.
        num_generated: number m of generated views per image; the loss is the mean over them.
    """

    def __init__(self, base: Objective, num_generated: int) -> None:
        super().__init__(base, 1, num_generated)
        if isinstance(base, Counted):  # then ln K − loss is the mean I_NCE of expert and generated view
            self.temperature, self.num_candidates = base.temperature, base.num_candidates

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the base loss, averaged over the generated views."""
        losses = [self.base.loss(self._pair(out, view)) for view in range(1, len(out.z))]
        return {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}

    def _pair(self, out: Outputs, view: int) -> Outputs:
        """Return the expert view and a generated one, with the weights of the latter."""
        weights = None if out.weights is None else out.weights[view - 1 : view]
        return replace(out.of_views(slice(0, view + 1, view)), weights=weights)

    def after_step(self, out: Outputs) -> None:
        """Call the base's `after_step` with the expert view and the first generated view."""
        self.base.after_step(out.of_views(slice(2)))


class A2(Combinator):
    """Assimilation by alignment (eq. 3): base loss of two expert views + α · attraction of generated views.

    A base that takes any number of views gets all of them instead, without α (eq. 6).

    Args:
        base: objective of two views, with unit projections or an attraction of its own.
        num_generated: number m of generated views per image.
        alpha: weight α of the alignment.
    """

    def __init__(self, base: Objective, num_generated: int, alpha: float) -> None:
        super().__init__(base, 2, num_generated)
        self.alpha = alpha
        if not base.head.unit and not isinstance(_innermost(base), Assimilable):
            raise UsageError(
                f"A2 aligns unit vectors, and {type(base).__name__} has projections of any length; "
                "choose another --objective, or --assimilation A1"
            )

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss with the attraction, and the base's metrics."""
        if self.any_views:
            found: dict[str, Tensor] = self.base.loss(out)
            return found
        losses = self.base.loss(out.of_views(slice(2)))
        return {**losses, "loss": losses["loss"] + self.alpha * attraction(self.base, out)}

    def after_step(self, out: Outputs) -> None:
        """Call the base's `after_step` with the expert views."""
        self.base.after_step(out.of_views(slice(2)))


def _innermost(objective: Any) -> Any:
    """Return the objective under all combinators."""
    while isinstance(objective, Combinator):
        objective = objective.base
    return objective


def build_objective(settings: Any) -> Objective:
    """Return the objective of a training: over the base hard negatives, IFM, A1 or A2, and a reconstruction.

    Args:
        settings: settings of the training, a `viewgen_train.settings.TrainSettings`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # weights of its own are the same in every process
        base: Any = settings.objective.build()
    how, negatives = settings.assimilation, settings.negatives
    if negatives.hardness or negatives.class_prior:
        base = HardNegatives(
            base, negatives.hardness, negatives.class_prior, annealing=negatives.hardness_annealing
        )
    if negatives.ifm_epsilon:
        base = IFM(base, negatives.ifm_epsilon, negatives.ifm_alpha, only=negatives.ifm_only)
    if how.kind == "A1":
        base = A1(base, how.views_per_step)
    if how.kind == "A2":
        base = A2(base, how.views_per_step, how.alpha)
    rebuilding, optimiser = settings.reconstruction, settings.optimiser
    if rebuilding.active:
        base = Reconstruction(
            base,
            rebuilding.reconstruction_weight,
            rebuilding.contrastive_weight,
            rebuilding.reconstruction_epochs / optimiser.epochs,
            optimiser.loss_scale,
        )
    built: Objective = base
    return built
