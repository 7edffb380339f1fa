"""The length of each random direction of codes that reaches a distance in the encoder's space.

Each view moves along its own direction, c = e(x) + s·u, and s is found by a bracketing secant (regula falsi)
on d(s) = ‖f(g(c)) − f(x₀)‖, without any gradient.

Shape legend: A images, n views, … a code's own dimensions, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

import torch
from torch import Tensor

from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator
from viewgen.optimise.slots import equal_parts, expanded

__all__ = ["boundary_scales"]

FIRST_SCALE = 0.2  # the best standard deviation of W-perturb
MAX_GROWTH = 3.0


@torch.no_grad()
def boundary_scales(
    generator: Generator,
    encoder: Encoder,
    anchor_codes: Tensor,
    anchor_features: Tensor,
    directions: Tensor,
    epsilon_boundary: float,
    *,
    tolerance: float,
    max_passes: int,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Return the scale s of every view whose distance is closest to ε₁, and its number of evaluations.

    Args:
        generator: g.
        encoder: f.
        anchor_codes: codes of the anchors, `(A, ...)`.
        anchor_features: projections of the anchors by f, `(A, K)`.
        directions: u, `(A, n, ...)`.
        epsilon_boundary: ε₁.
        tolerance: |d − ε₁| at which the search of a view ends.
        max_passes: maximum number of evaluations of a view.
        batch_size: exact number of codes per evaluation.

    Returns:
        scales, `(A, n)`, positive, and evaluations, `(A, n)`, int64.
    """
    num_views = directions.shape[1]
    num_codes = directions.shape[0] * num_views
    scale = anchor_codes.new_full((num_codes,), FIRST_SCALE)
    best_scale, best_gap = scale.clone(), torch.full_like(scale, torch.inf)
    inner, inner_distance = torch.zeros_like(scale), torch.zeros_like(scale)
    outer, outer_distance = torch.full_like(scale, torch.inf), torch.full_like(scale, torch.inf)
    passes = torch.zeros_like(scale, dtype=torch.long)
    for _ in range(max_passes):
        open_codes = (best_gap > tolerance).nonzero()[:, 0]
        if len(open_codes) == 0:
            break
        passes[open_codes] += 1
        distance = torch.empty_like(scale)
        for codes, kept in equal_parts(open_codes, batch_size):
            images, views = codes // num_views, codes % num_views
            along = directions[images, views]
            moved = anchor_codes[images] + expanded(scale[codes], along) * along
            z = encoder(generator.decode(moved).clamp(-1, 1))
            distance[codes[:kept]] = (z - anchor_features[images]).norm(dim=1)[:kept]
        at, d = scale[open_codes], distance[open_codes]
        gap = (d - epsilon_boundary).abs()
        closer = gap < best_gap[open_codes]
        best_scale[open_codes] = torch.where(closer, at, best_scale[open_codes])
        best_gap[open_codes] = torch.where(closer, gap, best_gap[open_codes])
        inside = d < epsilon_boundary
        inner[open_codes] = torch.where(inside, at, inner[open_codes])
        inner_distance[open_codes] = torch.where(inside, d, inner_distance[open_codes])
        outer[open_codes] = torch.where(inside, outer[open_codes], at)
        outer_distance[open_codes] = torch.where(inside, outer_distance[open_codes], d)
        # bracketed: the secant, kept off the ends; not yet: outwards in proportion to the missing distance
        share = (epsilon_boundary - inner_distance) / (outer_distance - inner_distance).clamp_min(1e-6)
        between = inner + (outer - inner) * share.clamp(0.1, 0.9)
        beyond = inner * (epsilon_boundary / inner_distance.clamp_min(1e-6)).clamp(1.1, MAX_GROWTH)
        scale = torch.where(torch.isinf(outer), beyond, between)
    return best_scale.reshape(-1, num_views), passes.reshape(-1, num_views)
