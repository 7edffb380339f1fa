"""MINE, the Donsker–Varadhan bound: J − ln E_q[e^T].

References:
    Mutual Information Neural Estimation, Belghazi et al., 2018, https://arxiv.org/abs/1801.04062
"""

import math

import torch
from torch import Tensor

from viewgen.diagnostics.mutual_information.entry import EstimatorEntry
from viewgen.diagnostics.mutual_information.estimator import (
    PartitionEstimator,
    derangements,
    jensen_shannon_loss,
    log_mean_exp,
)
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Mine", "MineConfig"]


class MineConfig(Settings):
    """Settings of MINE."""

    title = "mine"

    ema_rate: float = setting(0.01, "weight of the newest batch in the moving average", gt=0, le=1)
    warm_up_share: float = setting(
        0.0, "share of the updates that follow the Jensen–Shannon objective first", ge=0, lt=1
    )


class Mine(PartitionEstimator):
    """The Donsker–Varadhan bound; the gradient's denominator is a moving average (eq. 12 of Belghazi et al.).

    The gradient of ln E_q[e^T] over a batch is biased, since the batch's own mean divides it; a moving
    average of that mean replaces it. Where x and y share much information, a few pairs of a batch dominate
    that mean, and a network that starts on it may never find them. The first updates can use the
    Jensen–Shannon objective instead, which has the same optimum up to a constant and a bounded gradient.

    Args:
        ema_rate: weight of the newest batch in the moving average; the first batches are averaged evenly.
        num_warm_up: updates on the Jensen–Shannon objective.
    """

    name = "mine"
    title = "MINE"

    def __init__(self, ema_rate: float = 0.01, num_warm_up: int = 0) -> None:
        self.ema_rate = ema_rate
        self.num_warm_up = num_warm_up
        self._num_warmed_up = 0
        self._num_batches = 0
        self._log_average = torch.zeros(())

    def value(self, joint: Tensor, log_partition: Tensor) -> Tensor:
        return joint - log_partition

    def loss(self, scores: Tensor) -> Tensor:
        if self._num_warmed_up < self.num_warm_up:
            self._num_warmed_up += 1
            return jensen_shannon_loss(scores)
        marginal = derangements(scores)
        newest = log_mean_exp(marginal.detach())
        self._num_batches += 1
        rate = max(self.ema_rate, 1 / self._num_batches)
        if rate == 1:
            self._log_average = newest
        else:
            old = self._log_average + math.log1p(-rate)
            self._log_average = torch.logaddexp(old, newest + math.log(rate))
        return torch.exp(marginal - self._log_average).mean() - scores.diagonal().mean()


def build(settings: MineConfig, *, batch_size: int, num_steps: int) -> Mine:
    """Return a new estimator."""
    return Mine(settings.ema_rate, round(num_steps * settings.warm_up_share))


ENTRY = EstimatorEntry(
    name="mine",
    title=Mine.title,
    summary="MINE, the Donsker–Varadhan bound",
    settings=MineConfig,
    build=build,
)
