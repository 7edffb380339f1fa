"""Estimators of mutual information from the scores of a statistics network: their common part.

A statistics network T gives every pair of an x and a y a score. The scores of a batch of B images form a
square matrix: its diagonal holds the matching pairs (the joint distribution), and each of the B − 1 other
cyclic shifts is a derangement, a pairing of no x with its own y (the product of the marginals). Nothing is
drawn with replacement, and no pair occurs twice.

An estimator is an objective for T and an estimate from its scores, in nats. Its module writes J = E_p[T] for
the mean over the joint distribution, and E_q for the mean over the product of the marginals.

Shape legend: R draws of the views, B or N images, S resamplings.

References:
    On Variational Bounds of Mutual Information, Poole et al., 2019, https://arxiv.org/abs/1905.06922
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Estimator",
    "PartitionEstimator",
    "derangements",
    "jensen_shannon_loss",
    "log_mean_exp",
]


def derangements(scores: Tensor) -> Tensor:
    """Return the scores of all shifts of a batch but the identity, `(..., B, B)` → `(..., B, B − 1)`."""
    size = scores.shape[-1]
    flat: Tensor = scores.flatten(-2)[..., 1:].unflatten(-1, (size - 1, size + 1))
    return flat[..., :-1].reshape(*scores.shape[:-1], size - 1)


def jensen_shannon_loss(scores: Tensor) -> Tensor:
    """Return the cross-entropy of joint against deranged pairs; the log density ratio minimises it.

    Args:
        scores: scores of one or more batches, `(..., B, B)`.
    """
    joint = F.softplus(-scores.diagonal(dim1=-2, dim2=-1)).mean()
    return joint + F.softplus(derangements(scores)).mean()


def log_mean_exp(values: Tensor) -> Tensor:
    """Return the logarithm of the mean exponential of all entries."""
    return torch.logsumexp(values.flatten(), 0) - math.log(values.numel())


class Estimator(ABC):
    """An estimator: the training objective of its network, and the estimate from held-out scores.

    Attributes:
        name: name on the command line.
        title: name in tables and plots.
        is_lower_bound: True if its expectation never exceeds the mutual information.
        is_unbiased: True if the estimate's expectation over images is the bound that the network reaches.
        ceiling: upper limit of the estimate for any data, in nats, or None.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    is_lower_bound: ClassVar[bool] = True
    is_unbiased: ClassVar[bool] = False
    ceiling: float | None = None

    @abstractmethod
    def objective(self, scores: Tensor) -> Tensor:
        """Return the objective (training maximises it) of scores `(..., B, B)` of one or more batches."""

    def loss(self, scores: Tensor) -> Tensor:
        """Return the training loss of a batch's scores `(B, B)`; it may be stateful across batches."""
        return -self.objective(scores)

    def offset(self, scores: Tensor) -> Tensor:
        """Return the constant that, added to the scores `(..., B, B)`, maximises the objective."""
        return scores.new_zeros(())

    @abstractmethod
    def estimate(self, blocks: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Return the estimates in nats, `(S,)`, one per resampling of the held-out images.

        Args:
            blocks: the held-out scores, float64 `(R, N_g, N_g)` each; pairs across blocks are not scored.
            weights: multiplicity of each image in a resampling, float64 `(S, N_g)` for each block.
        """


class PartitionEstimator(Estimator):
    """An estimator made of the joint mean and a mean exponential over the marginals."""

    def exponent(self, scores: Tensor) -> Tensor:
        """Return the scores as they enter the exponential."""
        return scores

    @abstractmethod
    def value(self, joint: Tensor, log_partition: Tensor) -> Tensor:
        """Return the estimate, given the joint mean and ln E_q[e^T]."""

    def objective(self, scores: Tensor) -> Tensor:
        joint = scores.diagonal(dim1=-2, dim2=-1).mean()
        return self.value(joint, log_mean_exp(self.exponent(derangements(scores))))

    def estimate(self, blocks: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        exponents = [self.exponent(scores) for scores in blocks]
        largest = max(float(scores.max()) for scores in exponents)
        joint, total, mass, pairs = (torch.zeros(len(weights[0]), dtype=torch.float64) for _ in range(4))
        for scores, exponent, w_SN in zip(blocks, exponents, weights, strict=True):
            joint += w_SN @ scores.diagonal(dim1=-2, dim2=-1).mean(dim=0)
            total += w_SN.sum(dim=1)
            # a resampling repeats images; the pairs of an image with itself stay outside the marginals
            e_NN = torch.exp(exponent - largest).mean(dim=0).fill_diagonal_(0)
            mass += ((w_SN @ e_NN) * w_SN).sum(dim=1)
            pairs += w_SN.sum(dim=1).square() - w_SN.square().sum(dim=1)
        return self.value(joint / total, torch.log(mass / pairs) + largest)
