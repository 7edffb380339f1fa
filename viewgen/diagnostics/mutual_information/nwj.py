"""NWJ, also known as f-GAN KL and as MINE-f: J − E_q[e^(T−1)].

References:
    Estimating divergence functionals and the likelihood ratio by convex risk minimization, Nguyen, Wainwright
    and Jordan, 2010, https://arxiv.org/abs/0809.0853
"""

import torch
from torch import Tensor

from viewgen.diagnostics.mutual_information.entry import EstimatorEntry
from viewgen.diagnostics.mutual_information.estimator import PartitionEstimator, derangements, log_mean_exp
from viewgen.settings import Settings

__all__ = ["ENTRY", "Nwj", "NwjConfig"]


class NwjConfig(Settings):
    """Settings of NWJ: none."""

    title = "nwj"


class Nwj(PartitionEstimator):
    """The bound of Nguyen, Wainwright and Jordan, also known as f-GAN KL and as MINE-f."""

    name = "nwj"
    title = "NWJ"

    def value(self, joint: Tensor, log_partition: Tensor) -> Tensor:
        return joint - torch.exp(log_partition - 1)

    def offset(self, scores: Tensor) -> Tensor:
        return 1 - log_mean_exp(derangements(scores))


def build(settings: NwjConfig, *, batch_size: int, num_steps: int) -> Nwj:
    """Return a new estimator."""
    return Nwj()


ENTRY = EstimatorEntry(
    name="nwj",
    title=Nwj.title,
    summary="bound of Nguyen, Wainwright and Jordan",
    settings=NwjConfig,
    build=build,
)
