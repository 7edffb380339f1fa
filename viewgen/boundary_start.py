"""A start on the boundary: how far each random direction must be followed to reach ε₁.

W-search can start from almost the anchor itself and let Adam carry the views outwards, but the shortest way to a
distance in an encoder's space is hardly visible in the image, and all views take it. Here each view goes along a
random direction of its own, w = e(x) + s·u with u ~ N(0, I), and s is found by a bracketing secant (regula falsi)
on d(s) = ‖f(g(w)) − f(x₀)‖ without any gradient; Adam then spreads the views along the boundary.

Shape legend: A images, n views, L layers, D style dimension, K projection dimension.
"""

import torch
from torch import Tensor

from viewgen.encoder import Encoder
from viewgen.slots import equal_parts
from viewgen.stylegan2 import Generator

__all__ = ["boundary_scales"]

FIRST_SCALE = 0.2  # the best standard deviation of W-perturb
MAX_GROWTH = 3.0


@torch.no_grad()
def boundary_scales(
    generator: Generator,
    encoder: Encoder,
    anchor_w_plus: Tensor,
    anchor_features: Tensor,
    directions: Tensor,
    epsilon_boundary: float,
    *,
    num_passes: int,
    batch_size: int,
) -> Tensor:
    """Return for every view the scale s whose distance came closest to ε₁.

    Args:
        generator, encoder: g and f.
        anchor_w_plus: codes of the anchors, `(A, L, D)`.
        anchor_features: f of the anchors, `(A, K)`.
        directions: u, `(A, n, L, D)`.
        epsilon_boundary: ε₁.
        num_passes: evaluations of every view.
        batch_size: codes evaluated at once, always exactly.

    Returns:
        `(A, n)`, positive.
    """
    num_views = directions.shape[1]
    shape = directions.shape[:2]
    scale = anchor_w_plus.new_full(shape, FIRST_SCALE)
    best_scale, best_gap = scale.clone(), anchor_w_plus.new_full(shape, torch.inf)
    inner, inner_distance = torch.zeros_like(scale), torch.zeros_like(scale)
    outer, outer_distance = torch.full_like(scale, torch.inf), torch.full_like(scale, torch.inf)
    for _ in range(num_passes):
        w = anchor_w_plus[:, None] + scale[..., None, None] * directions
        z = torch.cat(
            [
                encoder(generator.synthesis(part).clamp(-1, 1))[:kept]
                for part, kept in equal_parts(w.flatten(0, 1), batch_size)
            ]
        ).unflatten(0, (-1, num_views))
        distance = (z - anchor_features[:, None]).norm(dim=2)
        gap = (distance - epsilon_boundary).abs()
        closer = gap < best_gap
        best_scale, best_gap = torch.where(closer, scale, best_scale), torch.where(closer, gap, best_gap)
        inside = distance < epsilon_boundary
        inner, inner_distance = (
            torch.where(inside, scale, inner),
            torch.where(inside, distance, inner_distance),
        )
        outer, outer_distance = (
            torch.where(inside, outer, scale),
            torch.where(inside, outer_distance, distance),
        )
        # bracketed: the secant, kept off the ends; not yet: outwards in proportion to the missing distance
        share = (epsilon_boundary - inner_distance) / (outer_distance - inner_distance).clamp_min(1e-6)
        between = inner + (outer - inner) * share.clamp(0.1, 0.9)
        beyond = inner * (epsilon_boundary / inner_distance.clamp_min(1e-6)).clamp(1.1, MAX_GROWTH)
        scale = torch.where(torch.isinf(outer), beyond, between)
    return best_scale
