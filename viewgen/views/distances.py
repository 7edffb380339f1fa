"""Distances of views in an encoder's space: from their anchor, and from each other.

Shape legend: B images, V views per image, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, https://arxiv.org/abs/2304.00601
"""

import torch
from torch import Tensor

from viewgen.networks.batched import project
from viewgen.networks.encoder import Encoder

__all__ = ["mean_pairwise_distance", "view_distances"]


def mean_pairwise_distance(z: Tensor) -> Tensor:
    """Return d̄: each view's mean distance to the other views of its image.

    Args:
        z: projections, `(A, n, K)`.

    Returns:
        `(A, n)`; zeros for a single view.
    """
    num_views = z.shape[1]
    if num_views < 2:
        return z.new_zeros(z.shape[:2])
    square = (z[:, :, None] - z[:, None]).square().sum(dim=3)
    # the diagonal is set to 1 under the root, where its gradient would be infinite, and removed after it
    eye = torch.eye(num_views, dtype=torch.bool, device=z.device)
    distance = square.masked_fill(eye, 1.0).clamp_min(1e-12).sqrt().masked_fill(eye, 0.0)
    return distance.sum(dim=2) / (num_views - 1)


def view_distances(
    encoder: Encoder, views: Tensor, anchor_features: Tensor, at_once: int
) -> dict[str, Tensor]:
    """Return the columns ``distance`` `(B, V)` and ``mean_pairwise`` `(B,)` of stored views.

    Args:
        encoder: f.
        views: storage images, `(B, V, C, H, W)`.
        anchor_features: projections of the anchors, `(B, K)`.
        at_once: exact number of images per evaluation of the encoder.
    """
    num_views = views.shape[1]
    z = project(encoder, views.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
    return {
        "distance": (z - anchor_features[:, None]).norm(dim=2),
        "mean_pairwise": mean_pairwise_distance(z).mean(dim=1),
    }
