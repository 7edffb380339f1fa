"""BYOL: predictions of one view's target projection from the other view, without negatives.

The target network is a moving average of the trained one. Its decay rises to 1 on a cosine. The loss of a
prediction p and a target projection t is 2 − 2·cos(p, t), here the mean over both directions; Grill et al.
minimise their sum, which `optimiser.loss_scale` = 2 gives.

In A1 one view is generated. In A2 predictions of the generated views are drawn towards the targets of both
expert views with weight α, as in eq. 8 of Han et al. for SimSiam.

Shape legend: N images, m generated views per image, D projection dimension.

References:
    Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning, Grill et al., 2020, equation 2,
    https://arxiv.org/abs/2006.07733
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 8, https://arxiv.org/abs/2304.00601
"""

from typing import Self

import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from viewgen.settings import Settings, setting
from viewgen_train.objectives.entry import ObjectiveEntry
from viewgen_train.objectives.objective import Head, Outputs, PairObjective, weighted_mean

__all__ = ["BYOL", "ENTRY", "BYOLSettings", "byol"]


class BYOLSettings(Settings):
    """Settings of BYOL; the defaults are the authors'."""

    title = "byol"

    target_momentum: float = setting(
        0.996, "decay of the target network's moving average at the beginning", ge=0, lt=1
    )
    final_target_momentum: float = setting(
        1.0, "decay at the end of the training, approached on a cosine", ge=0, le=1
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.final_target_momentum < self.target_momentum:
            raise ValueError(
                f"final_target_momentum is {self.final_target_momentum}, below target_momentum "
                f"{self.target_momentum}; expected a decay that rises or stays"
            )
        return self


def byol(predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return BYOL's loss: mean of 2 − 2·cos, without gradients to the targets.

    Args:
        predictions: predictions, `(…, N, D)`.
        targets: projections of the target network, `(…, N, D)`.
        weights: weight of each pair, `(N,)` or `(m, N)`; None for 1.

    Returns:
        scalar `()`.
    """
    return weighted_mean(2 - 2 * F.cosine_similarity(predictions, targets.detach(), dim=-1), weights)


class BYOL(PairObjective):
    """BYOL of two views.

    Args:
        settings: decays of the moving average.
    """

    def __init__(self, settings: BYOLSettings) -> None:
        self.head = Head(
            projector="byol",
            predictor=True,
            predictor_width=16.0,
            unit=False,
            momentum=settings.target_momentum,
            final_momentum=settings.final_target_momentum,
        )

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views, mean over both directions."""
        assert out.p is not None
        assert out.target is not None
        return {"loss": byol(out.p[:2], out.target[:2].flip(0), out.pair_weights)}

    def attraction(self, out: Outputs) -> Tensor:
        """Return the loss of the generated views' predictions and each expert view's target."""
        assert out.p is not None
        assert out.target is not None
        return byol(out.p[None, 2:], out.target[:2, None], out.weights)


ENTRY = ObjectiveEntry(
    name="byol",
    summary="BYOL: predictions of a moving average's projections, without negatives",
    settings=BYOLSettings,
    build=BYOL,
    pair_weights=True,
)
