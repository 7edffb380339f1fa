"""Newton steps onto the boundary and along it: the `boundary` solver, which was the default of 0.1.0.

A view's distance d from its anchor is nearly linear in its code over the distances that a search covers, so
one gradient gives the step that brings it to ε₁ (a Newton step; also Polyak's, with the gap d − ε₁):

    Δw = −(d − ε₁) · ∇d / ‖∇d‖²

The views of an image are furthest apart when their offsets r_k = f(g(w_k)) − f(x₀) add up to zero: at equal
lengths their mean square distance is 2n/(n−1) · (ε₁² − ‖r̄‖²). So each view should also move by
t = −(r̄ − (r̄·e)e), the tangential part of −r̄, where e is its own direction r_k/‖r_k‖. A second gradient, of
t̂·f(g(w)), gives the direction in the code. The two gradients are nearly parallel in W⁺ (their cosine was
±0.95 for most views of digits), and a step that mixes them ends far from ε₁. The second is therefore
projected orthogonally to ∇d and limited in length per view: the limit halves after a step that left the
boundary, and grows after a step that stayed on it.

Shape legend: A active images, n views, … a code's own dimensions, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.optimise.slots import Aim, Evaluation, Tensors, expanded

__all__ = ["BoundarySteps", "boundary_aims"]

# Lengths of one update, as the root mean square change of a code's elements in units of their deviation.
FIRST_SIDEWAYS, MOST_SIDEWAYS, LEAST_SIDEWAYS = 0.008, 0.06, 0.0003
MOST_OUTWARDS = 0.005
GROWTH, SHRINKAGE = 1.5, 0.5


def boundary_aims(
    z: Tensor, anchor_features: Tensor, distance: Tensor, *, missing: Tensor, apart: Tensor
) -> tuple[Aim, Aim]:
    """Return the aims of the views of each image: their distance, and their position on the boundary.

    Args:
        z: projections of the views, `(A, n, K)`, with their graph.
        anchor_features: f(x₀), `(A, K)`.
        distance: distance of the views from their anchor, `(A, n)`, with its graph.
        missing: desired change of each distance, `(A, n)`.
        apart: True for images whose views should move apart, bool `(A,)`.

    Returns:
        aims in order of importance, each with values `(A, n)`.
    """
    with torch.no_grad():
        offset = z - anchor_features[:, None]
        outwards = offset / distance[..., None]
        centroid = offset.mean(dim=1, keepdim=True)
        sideways = (centroid * outwards).sum(dim=2, keepdim=True) * outwards - centroid
        length = sideways.norm(dim=2)
        direction = sideways / length.clamp_min(1e-12)[..., None]
    return Aim(distance, missing), Aim((z * direction).sum(dim=2), length * apart[:, None])


def _dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(2).sum(dim=2)


def _gradient(aim: Aim, codes: Tensor, keep_graph: bool) -> Tensor:
    """Return the gradient of the aim's values, computed as a descent towards its change.

    This sign lets pixels outside of the range pass the gradients that lead back into it
    (`viewgen.views.wsearch.problem.clamp_to_range`).
    """
    sign = torch.where(aim.change < 0, 1.0, -1.0).to(codes.dtype)
    (gradient,) = torch.autograd.grad((sign * aim.value).sum(), codes, retain_graph=keep_graph)
    return expanded(sign, codes) * gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundarySteps:
    """Update rule that fulfils the first of two aims and approaches the second (`viewgen.optimise.slots`).

    Attributes:
        tolerance: |d − ε₁| above which a view counts as off the boundary.
        unit: standard deviation of a code's elements, the unit of the lengths of updates.
    """

    tolerance: float
    unit: float = 1.0
    needs_gradients: bool = True

    def _size(self, codes: Tensor) -> float:
        """Return the norm of a change of a code whose root mean square is the unit."""
        return self.unit * math.sqrt(codes.shape[2:].numel())

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return each view's limit of a tangential step, and the length of its last one."""
        last = codes.new_zeros(codes.shape[:2])
        return {"limit": torch.full_like(last, FIRST_SIDEWAYS * self._size(codes)), "last": last}

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return the gradients of both aims and their changes."""
        first, second = evaluation.aims
        wanted = bool((second.change != 0).any())
        gradient = _gradient(first, codes, keep_graph=wanted)
        return {
            "missing": first.change.detach(),
            "outwards": gradient,
            "apart": second.change.detach(),
            "sideways": _gradient(second, codes, keep_graph=False) if wanted else torch.zeros_like(gradient),
        }

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update; adapts the limits."""
        size = self._size(codes)
        missing, apart = derivatives["missing"], derivatives["apart"]
        outwards, sideways = derivatives["outwards"], derivatives["sideways"]
        limit, last = state["limit"], state["last"]
        held = missing.abs() <= self.tolerance
        grown = torch.where(last > 0.99 * limit, GROWTH * limit, limit)
        shrunk = SHRINKAGE * torch.minimum(limit, last)
        limit = torch.where(last > 0, torch.where(held, grown, shrunk), limit)
        limit = limit.clamp(LEAST_SIDEWAYS * size, MOST_SIDEWAYS * size)

        square = _dot(outwards, outwards).clamp_min(1e-12)
        most = MOST_OUTWARDS * size / square.sqrt()
        out = (missing / square).clamp(-most, most)
        mixed = _dot(outwards, sideways)
        along = sideways - expanded(mixed / square, codes) * outwards
        along_square = _dot(along, along)
        # the step outwards moves the view sideways too
        left = torch.where(apart > 0, (apart - out * mixed).clamp_min(0), 0.0)
        side = left / (along_square + 1e-9)
        side = torch.minimum(side, limit / along_square.sqrt().clamp_min(1e-12))
        state["limit"], state["last"] = limit, side * along_square.sqrt()
        return codes + expanded(out, codes) * outwards + expanded(side, codes) * along
