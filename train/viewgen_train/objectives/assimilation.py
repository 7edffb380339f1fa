"""A1 and A2: combinators that add generated views to an objective of two views.

Shape legend: N images, m generated views per image, D projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equations 3, 7 and 8, https://arxiv.org/abs/2304.00601
"""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from viewgen.errors import UsageError
from viewgen_train.objectives.objective import Allocated, Objective, Outputs, Widths

__all__ = ["A1", "A2", "Assimilable", "alignment", "build_objective"]


def alignment(
    z1: Tensor, z2: Tensor, generated: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return L_align (eq. 3) without its weight: mean of z_i·z_p / τ over both expert views i and all p.

    Args:
        z1, z2: unit vectors of the expert views, `(N, D)`.
        generated: unit vectors of the generated views, `(m, N, D)`.
        temperature: τ.
        weights: weight of each generated view, `(m, N)`; None for 1.

    Returns:
        scalar `()`.
    """
    if weights is not None:
        generated = weights[:, :, None] * generated
    return ((z1 + z2) * generated.mean(dim=0)).sum(dim=1).mean() / (2 * temperature)


@runtime_checkable
class Assimilable(Protocol):
    """An objective with its own form of A2."""

    def assimilated(self, out: Outputs, alpha: float) -> dict[str, Tensor]:
        """Return the loss of two expert views followed by the generated views."""
        ...


class _Combinator(nn.Module):
    """An objective that wraps another and shares its state."""

    def __init__(self, base: Objective, num_expert: int, num_generated: int) -> None:
        super().__init__()
        self.base: Any = base
        self.num_expert, self.num_generated, self.head = num_expert, num_generated, base.head

    def allocate(self, widths: Widths) -> None:
        """Create the base's state."""
        if isinstance(self.base, Allocated):
            self.base.allocate(widths)


class A1(_Combinator):
    """Assimilation by positives: the base loss of an expert and a generated view.

    Args:
        base: objective of two views.
        num_generated: number m of generated views per image; the loss is the mean over them.
    """

    def __init__(self, base: Objective, num_generated: int) -> None:
        super().__init__(base, 1, num_generated)

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


class A2(_Combinator):
    """Assimilation by alignment (eq. 3): base loss of two expert views − α · alignment.

    Args:
        base: objective of two views, with unit projections or its own form of A2.
        num_generated: number m of generated views per image.
        alpha: weight α of the alignment.
    """

    def __init__(self, base: Objective, num_generated: int, alpha: float) -> None:
        super().__init__(base, 2, num_generated)
        self.alpha = alpha
        if not base.head.unit and not isinstance(base, Assimilable):
            raise UsageError(
                f"A2 aligns unit vectors, and {type(base).__name__} has projections of any length; "
                "choose another --objective, or --assimilation A1"
            )

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss and the alignment."""
        if isinstance(self.base, Assimilable):
            return self.base.assimilated(out, self.alpha)
        losses = self.base.loss(out.of_views(slice(2)))
        temperature = getattr(self.base, "temperature", 1.0)
        aligned = alignment(out.z[0], out.z[1], out.z[2:], temperature, out.weights)
        return {**losses, "loss": losses["loss"] - self.alpha * aligned}

    def after_step(self, out: Outputs) -> None:
        """Call the base's `after_step` with the expert views."""
        self.base.after_step(out.of_views(slice(2)))


def build_objective(settings: Any) -> Objective:
    """Return the objective of a training.

    Args:
        settings: settings of the training, a `viewgen_train.settings.TrainSettings`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)  # weights of its own are the same in every process
        base: Objective = settings.objective.build()
    how = settings.assimilation
    if how.kind == "A1":
        return A1(base, how.views_per_step)
    if how.kind == "A2":
        return A2(base, how.views_per_step, how.alpha)
    return base
