"""InfoNCE: E[T_ii − ln(1/K Σ_j e^T_ij)] in batches of K, at most ln K.

References:
    Representation Learning with Contrastive Predictive Coding, van den Oord et al., 2018,
    https://arxiv.org/abs/1807.03748
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from viewgen.diagnostics.mutual_information.entry import EstimatorEntry
from viewgen.diagnostics.mutual_information.estimator import Estimator
from viewgen.settings import Settings

__all__ = ["ENTRY", "InfoNCE", "InfoNCEConfig"]


class InfoNCEConfig(Settings):
    """Settings of InfoNCE: none besides the batch size."""

    title = "infonce"


class InfoNCE(Estimator):
    """The InfoNCE bound, the mean of both directions (which y belongs to x, which x to y).

    Args:
        batch_size: K, number of candidates, one of which is right; the bound is at most ln K.
    """

    name = "infonce"
    title = "InfoNCE"
    is_unbiased = True  # a mean over batches of K, whatever the number of images

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.ceiling = math.log(batch_size)

    def objective(self, scores: Tensor) -> Tensor:
        joint = scores.diagonal(dim1=-2, dim2=-1)
        both = torch.logsumexp(scores, -1) + torch.logsumexp(scores, -2)
        return (joint - both / 2).mean() + math.log(scores.shape[-1])

    def estimate(self, blocks: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        total, count = (torch.zeros(len(weights[0]), dtype=torch.float64) for _ in range(2))
        for scores, w_SN in zip(blocks, weights, strict=True):
            num_draws, num_images, _ = scores.shape
            for draw in range(num_draws):
                # whole batches only; every draw leaves out other images
                order = torch.arange(num_images).roll(-draw * (num_images // num_draws))
                for rows in order.split(self.batch_size):
                    if len(rows) < self.batch_size:
                        continue
                    batch = scores[draw][rows][:, rows]
                    w_SK = w_SN[:, rows]
                    values = self._per_image(batch, w_SK) + self._per_image(batch.T, w_SK)
                    total += (w_SK * values).sum(dim=1) / 2
                    count += w_SK.sum(dim=1)
        return total / count

    def _per_image(self, scores: Tensor, w_SK: Tensor) -> Tensor:
        """Return ln K minus the cross-entropy of each row, `(S, K)`, the others weighted by `w_SK`."""
        size = len(scores)
        largest = scores.max(dim=1, keepdim=True).values
        e_KK = torch.exp(scores - largest)
        own = e_KK.diagonal()
        others = w_SK @ e_KK.clone().fill_diagonal_(0).T
        others = others / (w_SK.sum(dim=1, keepdim=True) - w_SK).clamp_min(1) * (size - 1)
        return torch.log(own * size) - torch.log(own + others)


def build(settings: InfoNCEConfig, *, batch_size: int, num_steps: int) -> InfoNCE:
    """Return a new estimator."""
    return InfoNCE(batch_size)


ENTRY = EstimatorEntry(
    name="infonce",
    title=InfoNCE.title,
    summary="InfoNCE, which ends at the logarithm of the batch size",
    settings=InfoNCEConfig,
    build=build,
)
