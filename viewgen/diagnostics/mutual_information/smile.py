"""SMILE: trained on the Jensen–Shannon objective, J − ln E_q[clip(e^T, e^−τ, e^τ)]; not a lower bound.

References:
    Understanding the Limitations of Variational Mutual Information Estimators, Song and Ermon, 2020,
    https://arxiv.org/abs/1910.06222
"""

import torch
from torch import Tensor

from viewgen.diagnostics.mutual_information.entry import EstimatorEntry
from viewgen.diagnostics.mutual_information.estimator import (
    PartitionEstimator,
    derangements,
    jensen_shannon_loss,
)
from viewgen.settings import Settings, setting

__all__ = ["ENTRY", "Smile", "SmileConfig"]


class SmileConfig(Settings):
    """Settings of SMILE."""

    title = "smile"

    clip: float = setting(5.0, "τ, beyond which scores are clipped, in nats", gt=0)


class Smile(PartitionEstimator):
    """SMILE: the network learns the log density ratio as a classifier; the exponential is clipped.

    Args:
        clip: τ, in nats; smaller values trade variance for bias, which sets in where T exceeds τ.
    """

    name = "smile"
    title = "SMILE"
    is_lower_bound = False

    def __init__(self, clip: float = 5.0) -> None:
        self.clip = clip

    def exponent(self, scores: Tensor) -> Tensor:
        return scores.clamp(-self.clip, self.clip)

    def value(self, joint: Tensor, log_partition: Tensor) -> Tensor:
        return joint - log_partition

    def objective(self, scores: Tensor) -> Tensor:
        return -jensen_shannon_loss(scores)

    def offset(self, scores: Tensor) -> Tensor:
        joint, marginal = scores.diagonal(dim1=-2, dim2=-1).flatten(), derangements(scores).flatten()
        low, high = torch.tensor(-30.0).to(scores), torch.tensor(30.0).to(scores)
        for _ in range(25):  # the slope of the objective falls monotonically
            middle = (low + high) / 2
            rising = torch.sigmoid(-(joint + middle)).mean() > torch.sigmoid(marginal + middle).mean()
            low, high = (middle, high) if rising else (low, middle)
        return (low + high) / 2


def build(settings: SmileConfig, *, batch_size: int, num_steps: int) -> Smile:
    """Return a new estimator."""
    return Smile(settings.clip)


ENTRY = EstimatorEntry(
    name="smile",
    title=Smile.title,
    summary="SMILE, a clipped log density ratio; no lower bound",
    settings=SmileConfig,
    build=build,
)
