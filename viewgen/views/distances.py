"""Distances of views in the space of one encoder, or of several: from their anchor, and from each other.

Several encoders' unit vectors stand side by side, each divided by √E for E encoders, so that the Euclidean
distance of the whole is the root mean square of the distances under each. `Metric` combines these distances
by their mean or their maximum. Both are norms of the difference: a factor that lengthens an offset lengthens
its norm, so any direction has a point at any distance.

Shape legend: A images, B images, n and V views per image, K dimension of all projections, E encoders.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, https://arxiv.org/abs/2304.00601
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from viewgen.networks.batched import project
from viewgen.networks.encoder import Encoder

__all__ = ["EUCLIDEAN", "Metric", "mean_pairwise_distance", "view_distances"]


@dataclass(frozen=True, slots=True)
class Metric:
    """Distance between projections.

    Attributes:
        widths: width of each encoder's projection, whose sum is K; empty for one encoder of any width.
        combine: how distances under several encoders are combined.
    """

    widths: tuple[int, ...] = ()
    combine: Literal["mean", "max"] = "mean"

    @property
    def euclidean(self) -> bool:
        """True for one encoder."""
        return len(self.widths) < 2

    def norm(self, offsets: Tensor) -> Tensor:
        """Return the lengths, `(…)`, of offsets `(…, K)`; their gradient is finite at 0."""
        return self._combined(offsets, lambda part: part.square().sum(dim=-1))

    def length(self, offsets: Tensor) -> Tensor:
        """Return the lengths, `(…)`, of offsets `(…, K)` whose gradient nobody needs."""
        return offsets.norm(dim=-1) if self.euclidean else self.norm(offsets)

    def mean_pairwise(self, z: Tensor) -> Tensor:
        """Return d̄: each view's mean distance to the other views of its image.

        Args:
            z: projections, `(A, n, K)`.

        Returns:
            `(A, n)`; zeros for a single view.
        """
        num_views = z.shape[1]
        if num_views < 2:
            return z.new_zeros(z.shape[:2])
        # the diagonal is set to 1 under the root, where its gradient would be infinite, and removed after it
        eye = torch.eye(num_views, dtype=torch.bool, device=z.device)

        def squares(part: Tensor) -> Tensor:
            return (part[:, :, None] - part[:, None]).square().sum(dim=3).masked_fill(eye, 1.0)

        return self._combined(z, squares).masked_fill(eye, 0.0).sum(dim=2) / (num_views - 1)

    def reaching(self, offsets: Tensor) -> Tensor:
        """Return offsets `(…, K)` on the same rays, whose length here is what was their Euclidean one."""
        if self.euclidean:
            return offsets
        length = offsets.norm(dim=-1)
        found: Tensor = offsets * (length / self.norm(offsets).clamp_min(1e-6))[..., None]
        return found

    def _combined(self, values: Tensor, squares: Callable[[Tensor], Tensor]) -> Tensor:
        parts: Sequence[Tensor] = (values,)
        if not self.euclidean:
            parts = [len(self.widths) ** 0.5 * part for part in values.split(self.widths, dim=-1)]
        lengths = [squares(part).clamp_min(1e-12).sqrt() for part in parts]
        if self.euclidean:
            return lengths[0]
        together = torch.stack(lengths)
        return together.mean(dim=0) if self.combine == "mean" else together.amax(dim=0)


EUCLIDEAN = Metric()
mean_pairwise_distance = EUCLIDEAN.mean_pairwise


def view_distances(
    encoder: Encoder, views: Tensor, anchor_features: Tensor, at_once: int, metric: Metric = EUCLIDEAN
) -> dict[str, Tensor]:
    """Return the columns ``distance`` `(B, V)` and ``mean_pairwise`` `(B,)` of stored views.

    Args:
        encoder: f, or several encoders side by side.
        views: storage images, `(B, V, C, H, W)`.
        anchor_features: projections of the anchors, `(B, K)`.
        at_once: exact number of images per evaluation of the encoder.
        metric: distance between its projections.
    """
    num_views = views.shape[1]
    z = project(encoder, views.flatten(0, 1), at_once).unflatten(0, (-1, num_views))
    return {
        "distance": metric.length(z - anchor_features[:, None]),
        "mean_pairwise": metric.mean_pairwise(z).mean(dim=1),
    }
