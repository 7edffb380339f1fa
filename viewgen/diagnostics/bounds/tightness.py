"""Tightness of an image's views: alignment, the share R_ε of loose images, the Lipschitz constant, Theorem 1.

S_ε are the images all of whose views lie within ε of each other in the encoder's space, and R_ε is the share
of the others. Theorem 1 bounds R_ε by alignment, R_ε² ≤ η(ε)² · L_align with η of order 1/ε. Its constant for
M equally likely views is η = M²/(2ε): the largest distance of two views is at most M²/2 times the mean over
all M² ordered pairs, and the rest is Markov's inequality. Applied to squared distances it is sharper below
alignments of ε²: R_ε ≤ (M²/2) · L_align / ε².

Shape legend: N images, M views of each, D pixel values, d output width.

References:
    Towards the Generalization of Contrastive Self-Supervised Learning, Huang, Yi, Zhao and Jiang, 2021,
    Theorem 1, https://arxiv.org/abs/2111.00743
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewgen.diagnostics.concentration.augmented_distance import flat_views

__all__ = [
    "alignment_of_views",
    "diameters",
    "lipschitz",
    "loose_share",
    "loose_share_bound",
    "sharper_loose_share_bound",
]

VIEWS_AT_ONCE = 1024
LEVELS = 255.0


def alignment_of_views(z: Tensor, weights: Tensor) -> float:
    """Return L_align, the mean squared distance of two views of one image, drawn independently.

    Args:
        z: outputs, `(N, M, d)`.
        weights: weight of each image, `(N,)`, with sum 1.
    """
    z = z.double()
    # E‖a − b‖² over all ordered pairs, a view with itself too, is twice the variance
    per_image = 2 * (z - z.mean(dim=1, keepdim=True)).square().sum(dim=2).mean(dim=1)
    return float(weights @ per_image)


def diameters(z: Tensor) -> Tensor:
    """Return the largest distance between two views of each image, float64 `(N,)`.

    Args:
        z: outputs, `(N, M, d)`.
    """
    z = z.double()
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.amax(dim=(1, 2))


def loose_share(diameter: Tensor, weights: Tensor, epsilon: Tensor) -> Tensor:
    """Return R_ε for each ε `(E,)`, `(E,)`.

    Args:
        diameter: largest distance between two views of each image, `(N,)`.
        weights: weight of each image, `(N,)`, with sum 1.
        epsilon: values of ε, `(E,)`.
    """
    return (diameter > epsilon[:, None]).double() @ weights


def loose_share_bound(alignment: float, epsilon: float, num_views: int) -> float:
    """Return Theorem 1's bound of R_ε, η(ε)·√L_align with η = M²/(2ε); infinite at ε 0."""
    return num_views**2 / (2 * epsilon) * alignment**0.5 if epsilon > 0 else float("inf")


def sharper_loose_share_bound(alignment: float, epsilon: float, num_views: int) -> float:
    """Return the bound (M²/2)·L_align/ε² of R_ε; infinite at ε 0."""
    return num_views**2 / 2 * alignment / epsilon**2 if epsilon > 0 else float("inf")


def lipschitz(views: NDArray[np.uint8], z: Tensor, views_at_once: int = VIEWS_AT_ONCE) -> float:
    """Return the largest ‖f(u) − f(v)‖ / ‖u − v‖ over all pairs of views of a class, pixels in [0, 1].

    Theorem 2 uses the constant only between views of one class. Pairs with equal pixels are left out.

    Args:
        views: views of each image, uint8 `(N, M, …)`.
        z: their outputs, `(N, M, d)`.
        views_at_once: views on either side of a tile.
    """
    per_image, repeats = flat_views(views)
    flat = per_image.flatten(0, 1)
    outputs = z.flatten(0, 1).double()
    largest = 0.0
    for top in range(0, len(flat), views_at_once):
        u, f_u = flat[top : top + views_at_once].double(), outputs[top : top + views_at_once]
        for left in range(top, len(flat), views_at_once):
            v, f_v = flat[left : left + views_at_once].double(), outputs[left : left + views_at_once]
            # pixels are whole numbers, so that their squared distances are exact
            pixels = _squared(u, v)
            apart = pixels > 0
            if bool(apart.any()):
                ratio = _squared(f_u, f_v)[apart].clamp_min(0) / pixels[apart]
                largest = max(largest, float(ratio.max()))
    return math.sqrt(largest / repeats) * LEVELS


def _squared(u: Tensor, v: Tensor) -> Tensor:
    return u.square().sum(dim=1)[:, None] + v.square().sum(dim=1) - 2 * (u @ v.T)
