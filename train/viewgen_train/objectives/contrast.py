"""Contrasts: the logits of positives and negatives, on which IFM and hard negatives act.

An objective with negatives computes its loss in two parts: `contrast`, similarities of anchors with positives
and negatives, divided by τ, and `loss_of`, the loss of these logits. Between the two, a combinator may shift
the logits (`viewgen_train.objectives.ifm`) or weight the negatives
(`viewgen_train.objectives.hard_negatives`).

Shape legend: A anchors, P positives and M negatives of each, N images, D projection dimension.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from viewgen_train.objectives.objective import Head, Outputs, PairObjective, weighted_mean

__all__ = ["Contrast", "Contrastive", "ContrastiveObjective", "Counted", "all_views", "info_nce_of"]

LEFT_OUT = float("-inf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Logits of anchors: cosine similarities s, divided by τ.

    Attributes:
        positives: logits s⁺/τ, `(A, P)`.
        negatives: logits s⁻/τ, `(A, M)`; −∞ where an anchor is not compared.
        temperature: temperature τ.
        weights: weight of each anchor's loss, `(A,)`; None for 1.
        hardness: β; each negative has a weight in proportion to exp(β·s⁻/τ).
        class_prior: τ⁺, assumed share of negatives that are positives.
    """

    positives: Tensor
    negatives: Tensor
    temperature: float
    weights: Tensor | None = None
    hardness: float = 0.0
    class_prior: float = 0.0

    @classmethod
    def of_columns(
        cls, logits: Tensor, positive: Tensor, temperature: float, weights: Tensor | None = None
    ) -> Self:
        """Return the contrast of anchors with one positive each.

        Args:
            logits: logits of an anchor with positive and negatives, `(A, M + 1)`; −∞ where left out.
            positive: column of each anchor's positive, int64 `(A,)`.
            temperature: temperature τ.
            weights: weight of each anchor's loss, `(A,)`; None for 1.
        """
        column = positive[:, None]
        return cls(
            positives=logits.gather(1, column),
            negatives=logits.scatter(1, column, LEFT_OUT),
            temperature=temperature,
            weights=weights,
        )

    def shifted(self, epsilon: float) -> Self:
        """Return the contrast with positives less similar and negatives more similar by ε."""
        shift = epsilon / self.temperature
        return replace(self, positives=self.positives - shift, negatives=self.negatives + shift)

    @property
    def num_negatives(self) -> Tensor:
        """Number of negatives of each anchor, `(A,)`, in the logits' type."""
        return (self.negatives != LEFT_OUT).sum(dim=1).to(self.negatives.dtype)

    @property
    def log_shares(self) -> Tensor:
        """Logarithms of the negatives' normalised weights, `(A, M)`; those of each anchor sum to 1."""
        if self.hardness:
            return F.log_softmax(self.hardness * self.negatives, dim=1)
        even = -self.num_negatives.log()[:, None].expand_as(self.negatives)
        return even.masked_fill(self.negatives == LEFT_OUT, LEFT_OUT)

    def log_negatives(self) -> Tensor:
        """Return the logarithm of the sum of exp(s⁻/τ) over an anchor's negatives, `(A,)`.

        With hardness β and class prior τ⁺ it is the logarithm of M times Robinson et al.'s estimate of the
        mean over true negatives, at least M·exp(−1/τ).
        """
        if not self.hardness and not self.class_prior:
            return torch.logsumexp(self.negatives, dim=1)
        log_count = self.num_negatives.log()
        pooled = log_count + torch.logsumexp(self.log_shares + self.negatives, dim=1)
        if self.class_prior:
            pooled = self._debiased(pooled, log_count)
        return torch.maximum(pooled, log_count - 1 / self.temperature)

    def _debiased(self, pooled: Tensor, log_count: Tensor) -> Tensor:
        """Return log((e^pooled − τ⁺·M·e^{s⁺/τ}) / (1 − τ⁺)), or −∞ where the difference is not positive."""
        prior = torch.tensor(self.class_prior, dtype=pooled.dtype, device=pooled.device)
        ratio = prior.log() + log_count + self._log_positive() - pooled
        known = ratio < 0
        # where() alone would multiply an infinite derivative by 0
        difference = torch.log1p(-torch.where(known, ratio, -torch.ones_like(ratio)).exp())
        return torch.where(known, pooled + difference, LEFT_OUT) - torch.log1p(-prior)

    def mean_negative(self) -> Tensor:
        """Return the mean logit of an anchor's negatives, `(A,)`, at least −1/τ with a class prior."""
        there = self.negatives.masked_fill(self.negatives == LEFT_OUT, 0)
        mean = (self.log_shares.exp() * there).sum(dim=1)
        if not self.class_prior:
            return mean
        mean = (mean - self.class_prior * self.positives.mean(dim=1)) / (1 - self.class_prior)
        return mean.clamp_min(-1 / self.temperature)

    def _log_positive(self) -> Tensor:
        """Return the logarithm of the mean of exp(s⁺/τ) over an anchor's positives, `(A,)`."""
        count = self.positives.shape[1]
        return torch.logsumexp(self.positives, dim=1) - torch.log(self.positives.new_tensor(float(count)))


@runtime_checkable
class Contrastive(Protocol):
    """An objective with negatives."""

    temperature: float

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of a step."""
        ...

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits, a scalar `()`."""
        ...


@runtime_checkable
class Counted(Protocol):
    """An objective whose loss is InfoNCE's among K candidates, so that ln K − loss is I_NCE.

    Attributes:
        temperature: temperature τ.
        head: head of the objective.
    """

    temperature: float
    head: Head

    def num_candidates(self, num_images: int) -> int:
        """Return K, the right candidate included, for a batch of so many images."""
        ...


def info_nce_of(contrast: Contrast) -> Tensor:
    """Return −log(e^{s⁺/τ} / (e^{s⁺/τ} + Σ e^{s⁻/τ})), mean over the anchors, scalar `()`."""
    positive = contrast.positives[:, 0]
    losses = torch.logaddexp(positive, contrast.log_negatives()) - positive
    return weighted_mean(losses, contrast.weights)


def all_views(out: Outputs, temperature: float) -> Contrast:
    """Return the contrast of both views of each image with all other views of the batch, A = 2N."""
    z = out.z[:2].flatten(0, 1)
    logits = z @ z.T / temperature
    weights = None if out.pair_weights is None else out.pair_weights.repeat(2)
    positive = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return Contrast.of_columns(without_diagonal(logits), positive, temperature, weights)


def without_diagonal(logits: Tensor) -> Tensor:
    """Return square logits `(M, M)` with −∞ on the diagonal."""
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(diagonal, LEFT_OUT)


class ContrastiveObjective(PairObjective):
    """Base class of objectives of two views with negatives; by default the other 2N − 2 views."""

    def contrast(self, out: Outputs) -> Contrast:
        """Return the logits of the two views with all others."""
        return all_views(out, self.temperature)

    def loss_of(self, contrast: Contrast) -> Tensor:
        """Return the loss of logits."""
        return info_nce_of(contrast)

    def loss(self, out: Outputs) -> dict[str, Tensor]:
        """Return the loss of the two views."""
        return {"loss": self.loss_of(self.contrast(out))}
