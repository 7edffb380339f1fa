"""Class centres and their divergence.

The centre μ_k is the mean output over the images of class k and their views; the classifier G_f chooses the
nearest (`viewgen.diagnostics.nearest_centre`). Divergence is the inner product of two centres: small where
classes are apart, −1/(K−1) at best for K centres of unit norm.

Shape legend: N images, M views of each, K classes, d output width.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    sections 2 and 3, https://arxiv.org/abs/2111.00743
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.diagnostics.bounds.embedding import Embedded

__all__ = ["Divergence", "class_centres", "divergence"]

IMAGES_AT_ONCE = 4096


def class_centres(sample: Embedded, images_at_once: int = IMAGES_AT_ONCE) -> Tensor:
    """Return μ_k, float64 `(K, d)`; sums are taken block by block, without a float64 copy of all outputs."""
    total = torch.zeros(sample.num_classes, sample.z.shape[2], dtype=torch.float64)
    parts = zip(sample.z.split(images_at_once), sample.labels.split(images_at_once), strict=True)
    for z, labels in parts:
        total.index_add_(0, labels, z.sum(dim=1, dtype=torch.float64))
    counts = torch.bincount(sample.labels, minlength=sample.num_classes) * sample.z.shape[1]
    return total / counts[:, None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Divergence of class centres, in units of r².

    Attributes:
        largest: largest inner product of two centres.
        pair: classes of that pair.
        mean: mean inner product of two centres.
        delta_mu: Δ_μ = 1 − smallest ‖μ_k‖².
    """

    largest: float
    pair: tuple[int, int]
    mean: float
    delta_mu: float


def divergence(centres: Tensor, radius: float = 1.0) -> Divergence:
    """Return the divergence of at least two centres `(K, d)` of outputs of norm `radius`."""
    products = centres @ centres.T / radius**2
    first, second = torch.triu_indices(len(centres), len(centres), 1)
    pairs = products[first, second]
    place = int(pairs.argmax())
    return Divergence(
        largest=float(pairs[place]),
        pair=(int(first[place]), int(second[place])),
        mean=float(pairs.mean()),
        delta_mu=1 - float(products.diagonal().min()),
    )
