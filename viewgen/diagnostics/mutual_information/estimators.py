"""Four estimators of mutual information from the scores of a statistics network, behind one interface.

A statistics network T gives every pair of an x and a y a score. Of a batch of B images the scores are a
square matrix: its diagonal holds the pairs that belong together (the joint distribution), and each of the
B − 1 cyclic shifts beside it is a derangement, a pairing in which no x meets its own y (the product of the
marginals). Nothing is drawn with replacement, and no pair is met twice.

With J = E_p[T] over the joint distribution and E_q over the product of the marginals, in nats:

- MINE (Belghazi et al. 2018), the Donsker–Varadhan bound: J − ln E_q[e^T];
- NWJ (Nguyen, Wainwright and Jordan 2010): J − E_q[e^(T−1)];
- InfoNCE (van den Oord et al. 2018): E[T_ii − ln(1/K Σ_j e^T_ij)] in batches of K, at most ln K;
- SMILE (Song and Ermon 2020): trained on the Jensen–Shannon objective, J − ln E_q[clip(e^T, e^−τ, e^τ)].

The first three are lower bounds for whatever T; SMILE is not, since clipping removes from E_q.

Shape legend: R draws of the views, B or N images, S resamplings.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen.errors import UsageError, nearest_name

__all__ = ["ESTIMATORS", "Estimator", "InfoNCE", "Mine", "Nwj", "Smile", "build_estimator", "derangements"]


def derangements(scores: Tensor) -> Tensor:
    """Return the scores of all shifts of a batch but the identity, `(..., B, B)` → `(..., B, B − 1)`."""
    size = scores.shape[-1]
    flat: Tensor = scores.flatten(-2)[..., 1:].unflatten(-1, (size - 1, size + 1))
    return flat[..., :-1].reshape(*scores.shape[:-1], size - 1)


def jensen_shannon_loss(scores: Tensor) -> Tensor:
    """Return the cross-entropy of telling joint from deranged pairs; the log density ratio minimises it.

    Args:
        scores: of one or more batches, `(..., B, B)`.
    """
    joint = F.softplus(-scores.diagonal(dim1=-2, dim2=-1)).mean()
    return joint + F.softplus(derangements(scores)).mean()


def log_mean_exp(values: Tensor) -> Tensor:
    """Return the logarithm of the mean exponential of all entries."""
    return torch.logsumexp(values.flatten(), 0) - math.log(values.numel())


class Estimator(ABC):
    """An estimator: what its network is trained on, and the estimate from held-out scores.

    Attributes:
        name: as on the command line.
        title: for tables and plots.
        is_lower_bound: whether its expectation never exceeds the mutual information.
        ceiling: nats that the estimate cannot exceed whatever the data, or None.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    is_lower_bound: ClassVar[bool] = True
    ceiling: float | None = None

    @abstractmethod
    def objective(self, scores: Tensor) -> Tensor:
        """Return what training maximises, of the scores `(..., B, B)` of one or more batches."""

    def loss(self, scores: Tensor) -> Tensor:
        """Return the training loss of a batch's scores `(B, B)`; it may keep a state from batch to batch."""
        return -self.objective(scores)

    def offset(self, scores: Tensor) -> Tensor:
        """Return the constant that, added to the scores `(..., B, B)`, maximises the objective."""
        return scores.new_zeros(())

    @abstractmethod
    def estimate(self, blocks: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Return the estimates in nats, `(S,)`, one per resampling of the held-out images.

        Args:
            blocks: the held-out scores, float64 `(R, N_g, N_g)` each; pairs across blocks are not scored.
            weights: how often each image occurs in a resampling, float64 `(S, N_g)` for each block.
        """


class _PartitionEstimator(Estimator):
    """An estimator made of the joint mean and a mean exponential over the marginals."""

    def exponent(self, scores: Tensor) -> Tensor:
        """Return the scores as they enter the exponential."""
        return scores

    @abstractmethod
    def value(self, joint: Tensor, log_partition: Tensor) -> Tensor:
        """Return the estimate of the joint mean and of ln E_q[e^T]."""

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


class Mine(_PartitionEstimator):
    """The Donsker–Varadhan bound; the gradient's denominator is a moving average (eq. 12 of Belghazi et al.).

    The gradient of ln E_q[e^T] over a batch is biased, since the batch's own mean divides it; a moving
    average of that mean takes its place. Few pairs of a batch carry that mean where x and y share much, and a
    network that starts on it may never find them; the first updates can follow the Jensen–Shannon objective
    instead, which has the same optimum up to a constant and a bounded gradient.

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


class Nwj(_PartitionEstimator):
    """The bound of Nguyen, Wainwright and Jordan, also known as f-GAN KL and as MINE-f."""

    name = "nwj"
    title = "NWJ"

    def value(self, joint: Tensor, log_partition: Tensor) -> Tensor:
        return joint - torch.exp(log_partition - 1)

    def offset(self, scores: Tensor) -> Tensor:
        return 1 - log_mean_exp(derangements(scores))


class Smile(_PartitionEstimator):
    """SMILE: the network learns the log density ratio as a classifier, the exponential is clipped.

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


class InfoNCE(Estimator):
    """The InfoNCE bound, the mean of both directions (which y belongs to x, which x to y).

    Args:
        batch_size: K, candidates among which the right one is to be found; the bound ends at ln K.
    """

    name = "infonce"
    title = "InfoNCE"

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


ESTIMATORS: dict[str, type[Estimator]] = {kind.name: kind for kind in (Mine, InfoNCE, Nwj, Smile)}


def build_estimator(
    name: str, *, batch_size: int, ema_rate: float, num_warm_up: int, clip: float
) -> Estimator:
    """Return a new estimator.

    Args:
        name: one of `ESTIMATORS`.
        batch_size: K of InfoNCE.
        ema_rate: of MINE's moving average.
        num_warm_up: of MINE's updates.
        clip: τ of SMILE.

    Raises:
        UsageError: there is no such estimator.
    """
    if name not in ESTIMATORS:
        raise UsageError(
            f"no estimator {name!r}{nearest_name(name, ESTIMATORS)} (known: {', '.join(ESTIMATORS)})"
        )
    if name == Mine.name:
        return Mine(ema_rate, num_warm_up)
    if name == InfoNCE.name:
        return InfoNCE(batch_size)
    return Smile(clip) if name == Smile.name else Nwj()
