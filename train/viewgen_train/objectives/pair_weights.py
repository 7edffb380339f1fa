"""Weights of positive pairs by the quality of their views.

GenView weights the loss of each pair i of a batch by w_i = N·exp(q_i) / Σ_j exp(q_j), where q_i is the
similarity of the pair's foregrounds minus that of its backgrounds, without a gradient; its code multiplies q
by γ. Here q is a score of the generated view, in standard deviations over the cache.

Shape legend: N images, m generated views per image.

References:
    GenView: Enhancing View Quality with Pretrained Generative Model for Self-Supervised Learning, Li et al.,
    2024, section 3.4, https://arxiv.org/abs/2403.12003
"""

import torch
from torch import Tensor

__all__ = ["pair_weights"]


def pair_weights(scores: Tensor, gamma: float) -> Tensor:
    """Return weights exp(γ·q) of the generated views, of mean 1 over the images of a step.

    Args:
        scores: q, standardised scores `(m, N)`; NaN where unknown, which counts as the mean 0.
        gamma: γ; 0 gives every view the weight 1.

    Returns:
        `(m, N)`, without a gradient.
    """
    known = torch.nan_to_num(scores.detach(), nan=0.0)
    return known.shape[1] * torch.softmax(gamma * known, dim=1)
