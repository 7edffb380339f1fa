"""Cross-correlation of two views, and the alignment and divergence that it bounds (Lemma 2, Theorem 4).

Outputs are scaled to E f_i² = 1 per dimension. C = E f(x₁)f(x₂)ᵀ over independent views of one image is the
mean of f̄f̄ᵀ, f̄ the mean output of an image. With L₁ = Σ(1 − C_ii)² and L₂ = ‖C − I‖², Lemma 2 is
L_align ≤ 2√(d L₁), and Theorem 4 is μ_k·μ_ℓ ≤ √((2/(p_k p_ℓ)) (L₂ + τ_c − (d − K)/2)), where
τ_c = ‖C − Σ p_k μ_k μ_kᵀ‖² is measured.

Sharper: in the sum behind the theorem each pair occurs twice, and √L₂ + √τ_c bounds ‖Σ p_k μ_k μ_kᵀ − I‖ by
the triangle inequality, so (μ_k·μ_ℓ)² ≤ ((√L₂ + √τ_c)² − (d − K)) / (2 p_k p_ℓ). In the perfect case τ_c is
0.

Shape legend: N images, M views of each, K classes, d output width.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    Lemma 2 and Theorem 4, https://arxiv.org/abs/2111.00743
    Barlow Twins: Self-Supervised Learning via Redundancy Reduction, Zbontar, Jing, Misra, LeCun and Deny,
    2021, https://arxiv.org/abs/2103.03230
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.diagnostics.bounds.centres import class_centres, divergence
from viewgen.diagnostics.bounds.embedding import Embedded
from viewgen.diagnostics.bounds.tightness import alignment_of_views
from viewgen.errors import DataError

__all__ = ["CrossCorrelation", "cross_correlation", "standardised"]

# deviation of a dimension, relative to its largest value, below which it is constant but for rounding
CONSTANT = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossCorrelation:
    """Cross-correlation of a sample, with what it bounds.

    Attributes:
        diagonal: L₁.
        identity: L₂.
        class_error: τ_c.
        alignment: L_align of the scaled outputs.
        largest: largest product μ_ℓ·μ_k of the scaled outputs.
        num_dims: d.
        num_classes: K.
        pair_share: p_k p_ℓ of the pair with the largest product.
    """

    diagonal: float
    identity: float
    class_error: float
    alignment: float
    largest: float
    num_dims: int
    num_classes: int
    pair_share: float

    @property
    def lemma2(self) -> float:
        """Bound of alignment."""
        return 2 * math.sqrt(self.num_dims * self.diagonal)

    @property
    def theorem4(self) -> float:
        """Bound of the largest product, as printed."""
        inside = self.identity + self.class_error - (self.num_dims - self.num_classes) / 2
        return math.sqrt(2 * max(0.0, inside) / self.pair_share)

    @property
    def sharper(self) -> float:
        """Sharper bound of the largest product."""
        whole = (math.sqrt(self.identity) + math.sqrt(self.class_error)) ** 2
        inside = whole - (self.num_dims - self.num_classes)
        return math.sqrt(max(0.0, inside) / (2 * self.pair_share))


def standardised(sample: Embedded, *, center: bool) -> Embedded:
    """Return the sample with outputs scaled to E f_i² = 1, float64.

    Args:
        sample: outputs, not normalised.
        center: subtract the mean of each dimension first, as Barlow Twins does.

    Raises:
        DataError: a dimension is constant.
    """
    z = sample.z.double()
    per_image = sample.weights[:, None]
    mean = (per_image * z.mean(dim=1)).sum(dim=0)
    size = z.abs().amax(dim=(0, 1))
    if center:
        z = z - mean
    scale = (per_image * z.square().mean(dim=1)).sum(dim=0).sqrt()
    constant = scale <= CONSTANT * size
    if bool(constant.any()):
        raise DataError(
            f"{int(constant.sum())} of {len(constant)} output dimensions are constant (dimension "
            f"{int(constant.nonzero()[0, 0])} is the first): the encoder has collapsed in them, and they "
            "have no correlation"
        )
    return sample.with_outputs(z / scale)


def cross_correlation(sample: Embedded) -> CrossCorrelation:
    """Return the cross-correlation of standardised outputs of at least two classes."""
    mean = sample.z.mean(dim=1)
    matrix = (sample.weights[:, None] * mean).T @ mean
    centres = class_centres(sample)
    apart = divergence(centres)
    num_dims = len(matrix)
    by_class = (sample.shares[:, None] * centres).T @ centres
    first, second = apart.pair
    return CrossCorrelation(
        diagonal=float((1 - matrix.diagonal()).square().sum()),
        identity=_squared_norm(matrix - torch.eye(num_dims, dtype=matrix.dtype)),
        class_error=_squared_norm(matrix - by_class),
        alignment=alignment_of_views(sample.z, sample.weights),
        largest=apart.largest,
        num_dims=num_dims,
        num_classes=sample.num_classes,
        pair_share=float(sample.shares[first] * sample.shares[second]),
    )


def _squared_norm(matrix: Tensor) -> float:
    return float(matrix.square().sum())
