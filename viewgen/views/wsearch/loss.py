"""Equation 2 of Constructive Assimilation, its gradient and its minimum, in the encoder's space.

For an image with anchor x₀ and views k = 1 … n at offsets r_k = f(g(c_k)) − f(x₀), with d_k = ‖r_k‖ and
d̄_k the mean distance of view k to the others:

    F = mean_k δ(d_k)  +  λ · mean_k max(0, ε₂ − d̄_k),     δ(d) = (d − ε₁)²  or, as hinge,  max(0, ε₁ − d)

Around one point there is little room: n points at distance ε₁ have a mean pairwise distance of at most
`feasible_spread`. The second term can therefore stay positive, and its push outwards moves the minimum of the
first from ε₁ to `balanced_distance`.

Shape legend: A images, n views, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

import math

import torch
from torch import Tensor

from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = [
    "balanced_distance",
    "boundary_uniformity_loss",
    "eq2_gradient",
    "eq2_target",
    "feasible_spread",
    "near_boundary",
    "spread_goal",
    "uniformity_gradient",
]

# Iterations of `eq2_target` along the sphere, and their length in units of the radius: eight views on a
# sphere of three dimensions come within 1 % of their largest mean distance in about ten.
TARGET_STEPS, TARGET_STEP = 12, 0.25


def feasible_spread(epsilon_boundary: float, num_views: int) -> float:
    """Return the largest mean pairwise distance of n points at distance ε₁ from one point: ε₁·√(2n/(n−1)).

    A regular simplex around the anchor attains it (0.454 for ε₁ 0.3 and 8 views); 0 for a single view.
    """
    return 0.0 if num_views < 2 else epsilon_boundary * math.sqrt(2 * num_views / (num_views - 1))


def balanced_distance(config: WSearchConfig, num_views: int) -> float:
    """Return the distance of the views from their anchor at the minimum of eq. 2, where no code limits it.

    The views are then a regular simplex, of mean pairwise distance c·d with c = √(2n/(n−1)). The squared
    boundary and the push balance at d = ε₁ + λc/2, or at ε₂/c where the push ends before; the hinge does not
    pull back, so the views go on to ε₂/c.
    """
    boundary = config.boundary_distance
    ratio = feasible_spread(1.0, num_views)
    if ratio == 0 or config.uniformity_weight == 0:
        return boundary
    ends = config.epsilon_uniformity / ratio
    balance = boundary + config.uniformity_weight * ratio / 2 if config.boundary == "squared" else ends
    return max(boundary, min(balance, ends))


def spread_goal(config: WSearchConfig, num_views: int) -> float:
    """Return the mean pairwise distance at which views are spread enough; 0 where nothing pushes."""
    if config.uniformity_weight == 0:
        return 0.0
    bound = feasible_spread(config.boundary_distance, num_views)
    return min(config.epsilon_uniformity, config.spread_share * bound)


def boundary_uniformity_loss(distance: Tensor, pairwise: Tensor, config: WSearchConfig) -> Tensor:
    """Return eq. 2 of every image.

    Args:
        distance: distance of the views from their anchor, `(A, n)`.
        pairwise: d̄, `(A, n)`.
        config: ε₁, ε₂, λ and δ.

    Returns:
        losses, `(A,)`.
    """
    gap = distance - config.boundary_distance
    boundary = gap.square() if config.boundary == "squared" else (-gap).clamp_min(0)
    uniformity = (config.epsilon_uniformity - pairwise).clamp_min(0)
    return boundary.mean(dim=1) + config.uniformity_weight * uniformity.mean(dim=1)


def near_boundary(distance: Tensor, config: WSearchConfig) -> Tensor:
    """Return True for views near enough to ε₁ for their image to stop; distances may have any shape.

    For the solver ``newton``, which goes to the minimum of eq. 2, a distance between ε₁ and
    `balanced_distance` is no error.
    """
    near = distance >= config.boundary_distance - config.tolerance
    if config.boundary == "hinge":
        return near
    farthest = config.boundary_distance
    if config.solver == "newton":
        farthest = balanced_distance(config, distance.shape[-1])
    return near & (distance <= farthest + config.tolerance)


def _units(offset: Tensor) -> Tensor:
    """Return the unit vectors from every other view to each view, `(A, n, n, K)`; zeros on the diagonal."""
    difference = offset[:, :, None] - offset[:, None]
    units: Tensor = difference / difference.norm(dim=3, keepdim=True).clamp_min(1e-12)
    return units


def uniformity_gradient(offset: Tensor, epsilon_uniformity: float) -> Tensor:
    """Return the gradient of mean_k max(0, ε₂ − d̄_k) by the offsets `(A, n, K)`."""
    num_views = offset.shape[1]
    if num_views < 2:
        return torch.zeros_like(offset)
    pushing = (mean_pairwise_distance(offset) < epsilon_uniformity).to(offset.dtype)
    # d̄_k changes with view k and, by its distance from k, with every other view
    weight = pushing[:, :, None] + pushing[:, None]
    total = (weight[..., None] * _units(offset)).sum(dim=2)
    return -total / (num_views * (num_views - 1))


def eq2_gradient(offset: Tensor, config: WSearchConfig) -> Tensor:
    """Return the gradient of eq. 2 by the offsets r_k, `(A, n, K)`."""
    distance = offset.norm(dim=2, keepdim=True).clamp_min(1e-12)
    gap = distance - config.boundary_distance
    slope = 2 * gap if config.boundary == "squared" else -(gap < 0).to(offset.dtype)
    boundary = slope * offset / distance / offset.shape[1]
    uniformity = uniformity_gradient(offset, config.epsilon_uniformity)
    total: Tensor = boundary + config.uniformity_weight * uniformity
    return total


def eq2_target(offset: Tensor, config: WSearchConfig, num_steps: int = TARGET_STEPS) -> Tensor:
    """Return offsets near `offset` at the minimum of eq. 2.

    The gradient of eq. 2 is followed along the spheres around the anchor, while the views of an image are
    less than ε₂ apart; then each view takes the distance at which the two terms balance.

    Args:
        offset: offsets of the views, `(A, n, K)`, of any length but zero.
        config: ε₁, ε₂, λ and δ.
        num_steps: iterations along the sphere.

    Returns:
        offsets, `(A, n, K)`, in the span of `offset`.
    """
    num_views = offset.shape[1]
    boundary = config.boundary_distance
    distance: Tensor = offset.norm(dim=2, keepdim=True).clamp_min(1e-12)
    direction: Tensor = offset / distance
    if config.boundary == "hinge":
        distance = distance.clamp_min(boundary)
    else:
        distance = torch.full_like(distance, boundary)
    if config.uniformity_weight == 0 or num_views < 2:
        reached: Tensor = distance * direction
        return reached
    for _ in range(num_steps):
        pull = -num_views * uniformity_gradient(distance * direction, config.epsilon_uniformity)
        pull = pull - (pull * direction).sum(dim=2, keepdim=True) * direction
        direction = torch.nn.functional.normalize(direction + TARGET_STEP * pull, dim=2)
    # outwards, until the terms balance or the views are ε₂ apart
    pairwise = mean_pairwise_distance(distance * direction).mean(dim=1)[:, None, None].clamp_min(1e-12)
    ends: Tensor = (distance * config.epsilon_uniformity / pairwise).maximum(distance)
    if config.boundary == "hinge":
        outermost: Tensor = ends * direction
        return outermost
    outwards = -num_views * uniformity_gradient(distance * direction, config.epsilon_uniformity)
    push = (outwards * direction).sum(dim=2, keepdim=True).clamp_min(0)
    target: Tensor = (distance + config.uniformity_weight / 2 * push).minimum(ends) * direction
    return target
