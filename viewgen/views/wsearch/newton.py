"""Gauss-Newton steps on eq. 2: the solver `newton` of W-search, with one backward pass per image.

The offsets r_k = f(g(c_k)) − f(x₀) of an image's views are nearly linear in their codes over the distances
that a search covers, and the encoder answers to few directions there: of digits' 4,096 coordinates three
to five carry the projection (`docs/explanation/w-search.md`). So

1.  `response` finds m such directions b_i at the anchor (one backward pass of m random cotangents gives the
    rows of a random sketch of the Jacobian), and by one forward pass what a step along each does: the
    columns of J.
2.  Every update aims at the minimum of eq. 2 that is nearest in the encoder's space (`eq2_target`), and
    takes the damped least-squares step of J towards it, Δa = (JᵀJ + μ)⁻¹ Jᵀ (r* − r); the code moves by
    Σ a_i b_i.
3.  The next forward pass tells what the step did. It corrects the view's own J by the secant of Broyden's
    rank-one update; a step that missed is taken back, and μ grows (Levenberg and Marquardt).

A view whose steps fail again and again is stuck: an encoder may answer to one sign of a direction alone. It
begins again against its direction, and after that from the place of another view that has arrived. No further
backward pass is needed.

Shape legend: N images, A active images, n views, m directions, … a code's own dimensions, D their product,
K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
    A Class of Methods for Solving Nonlinear Simultaneous Equations, Broyden, 1965,
    https://doi.org/10.1090/S0025-5718-1965-0198670-6
    An Algorithm for Least-Squares Estimation of Nonlinear Parameters, Marquardt, 1963,
    https://doi.org/10.1137/0111030
    Finding Structure with Randomness, Halko, Martinsson and Tropp, 2011, https://arxiv.org/abs/0909.4061
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator
from viewgen.optimise.slots import Evaluation, Tensors, equal_parts, expanded
from viewgen.views.distances import EUCLIDEAN, Metric, mean_pairwise_distance
from viewgen.views.source import Draws
from viewgen.views.wsearch.code_range import EVERYWHERE, CodeRange
from viewgen.views.wsearch.loss import eq2_target, spread_goal
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = ["NewtonSteps", "Response", "num_directions", "response"]

FEWEST_DIRECTIONS, MOST_DIRECTIONS = 4, 8
# Length of a probe: what it should do to the projection, in units of ε₁, and the least and the most, as the
# root mean square change of a code's elements in units of their deviation.
PROBE_REACH, LEAST_PROBE, MOST_PROBE = 0.5, 0.002, 0.03
# Longest first update, in the same unit; it doubles after updates that did what J had said.
FIRST_LIMIT = 0.06
DAMPING, DAMPING_GROWTH, DAMPING_DECAY = 0.01, 4.0, 0.5
LIMIT_GROWTH, LIMIT_DECAY = 2.0, 0.4
# Misses, as a share of what a step did, below which μ shrinks and the limit grows.
GOOD_FIT, VERY_GOOD_FIT = 0.5, 0.3
# Updates in a row that are taken back, or leave more than this share of the way, after which a view begins
# again in another direction.
PATIENCE, LITTLE_PROGRESS = 3, 0.9
# Beginnings after which a view goes on from the place of another one that has reached its distance, and the
# length of its own noise there.
TURNS_BEFORE_HOP, HOP_NOISE = 1, 5.0
# Root mean square of an update below which a view is held by its range of codes.
SHORTEST = 1e-5
# Directions whose response is below this share of the strongest are not aimed at.
WEAK = 0.1
# Iterations of `eq2_target` in an update of views that have reached the boundary.
LATER_STEPS = 2
# Exponents of the whitening of the first offsets; the smallest whose target is spread enough is taken.
WHITENING = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Response:
    """Directions of codes and their effect at the anchors.

    Attributes:
        directions: orthonormal rows in units of the generator's `code_scale`, `(N, m, D)`.
        jacobian: change of the projection per unit length along each, `(N, K, m)`.
    """

    directions: Tensor
    jacobian: Tensor


def num_directions(num_views: int) -> int:
    """Return m for n views."""
    return min(max(num_views, FEWEST_DIRECTIONS), MOST_DIRECTIONS)


def response(
    generator: Generator,
    encoder: Encoder,
    anchor_codes: Tensor,
    draws: Draws,
    *,
    num_views: int,
    epsilon_boundary: float,
    batch_size: int,
) -> Response:
    """Return the directions to which the encoder answers most, and its answers.

    Args:
        generator: g.
        encoder: f.
        anchor_codes: codes of the anchors, `(N, ...)`.
        draws: random numbers of the images.
        num_views: n.
        epsilon_boundary: ε₁, whose half a probe should cover.
        batch_size: exact number of codes per evaluation.
    """
    count = num_directions(num_views)
    scale = generator.code_scale
    codes = anchor_codes[:, None].expand(-1, count, *anchor_codes.shape[1:]).flatten(0, 1)
    places = torch.arange(len(codes), device=codes.device)
    gradients, found = [], []
    cotangents = torch.empty(0)
    for part, kept in equal_parts(places, batch_size):
        leaf = codes[part].detach().requires_grad_()
        with torch.enable_grad():
            z = encoder(generator.decode(leaf).clamp(-1, 1))
            if not len(cotangents):
                cotangents = draws.normal("wsearch-directions", count, z.shape[1]).to(z).flatten(0, 1)
            (gradient,) = torch.autograd.grad((z * cotangents[part]).sum(), leaf)
        gradients.append((scale * gradient)[:kept])
        found.append(z.detach()[:kept])
    features = torch.cat(found).unflatten(0, (-1, count))
    # an anchor that is not finite fails in its search, alone
    sketch = torch.cat(gradients).flatten(1).unflatten(0, (-1, count)).nan_to_num(0, 0, 0)
    basis, triangle = torch.linalg.qr(sketch.transpose(1, 2))
    left, strength, _ = torch.linalg.svd(triangle)
    directions = (basis @ left).transpose(1, 2).contiguous()

    unit = directions.shape[2] ** 0.5
    reach = PROBE_REACH * epsilon_boundary / (strength / count**0.5).clamp_min(1e-12)
    length = reach.clamp(LEAST_PROBE * unit, MOST_PROBE * unit)[..., None]
    steps = (length * directions).unflatten(2, anchor_codes.shape[1:])
    moved = (anchor_codes[:, None] + scale * steps).flatten(0, 1)
    with torch.no_grad():
        parts = equal_parts(moved, batch_size)
        probed = torch.cat([encoder(generator.decode(part).clamp(-1, 1))[:kept] for part, kept in parts])
    change = (probed.unflatten(0, (-1, count)) - features) / length
    return Response(directions, change.transpose(1, 2).nan_to_num(0, 0, 0).contiguous())


def _first_directions(jacobian: Tensor, noise: Tensor, config: WSearchConfig) -> Tensor:
    """Return offsets of unit length, `(A, n, K)`, for views that still lie beside their anchor.

    The encoder's answer to noise all but lies in the strongest direction of J. It is whitened as far as a
    spread beyond ε₂, or the one that ends the search, needs it.

    Args:
        jacobian: J at the anchors, `(A, K, m)`.
        noise: coordinates of the views' noise in the directions, `(A, n, m)`.
        config: settings of the search.
    """
    left, strength, right = torch.linalg.svd(jacobian, full_matrices=False)
    coordinates = noise @ right.transpose(1, 2)
    coordinates = coordinates * (strength >= WEAK * strength[:, :1])[:, None]
    goal = spread_goal(config, noise.shape[1])
    chosen: Tensor | None = None
    for power in WHITENING:
        stretched = coordinates * strength[:, None] ** (1 - power)
        offsets = torch.nn.functional.normalize(stretched, dim=2)
        if chosen is None:
            chosen = offsets
        target = eq2_target(chosen, config)
        enough = mean_pairwise_distance(target).mean(dim=1) >= goal
        chosen = torch.where(enough[:, None, None], chosen, offsets)
        if bool(enough.all()):
            break
    assert chosen is not None
    first: Tensor = chosen @ left.transpose(1, 2)
    return first


@dataclass(frozen=True, kw_only=True, slots=True)
class NewtonSteps:
    """Update rule of the solver (`viewgen.optimise.slots.UpdateRule`).

    Attributes:
        config: settings of the search.
        anchor_codes: codes of all images' anchors, `(N, ...)`.
        response: directions and Jacobians of all images.
        scale: the generator's `code_scale`.
        metric: distance between projections.
        range: limits of the change of a code.
    """

    config: WSearchConfig
    anchor_codes: Tensor
    response: Response
    scale: Tensor
    metric: Metric = EUCLIDEAN
    range: CodeRange = EVERYWHERE
    needs_gradients: bool = False

    def fresh(self, codes: Tensor, rows: Tensor) -> Tensors:
        """Return J of every view, μ, the limit of its step, and the last step that was kept."""
        num_views = codes.shape[1]
        directions, jacobian = self.response.directions[rows], self.response.jacobian[rows]
        noise = ((codes - self.anchor_codes[rows][:, None]) / self.scale).flatten(2).nan_to_num(0, 0, 0)
        coordinates = noise @ directions.transpose(1, 2)
        each = codes.new_ones(codes.shape[:2])
        return {
            "rows": rows,
            "jacobian": jacobian[:, None].expand(-1, num_views, -1, -1).clone(),
            "first": _first_directions(jacobian, coordinates, self.config),
            "damping": DAMPING * each,
            "limit": self._first_limit * each,
            "change": torch.zeros_like(coordinates),
            "codes": codes.clone(),
            "offset": codes.new_zeros(len(codes), num_views, jacobian.shape[1]),
            "begun": codes.clone(),
            "begun_offset": codes.new_zeros(len(codes), num_views, jacobian.shape[1]),
            # updates since the view began, failures in a row, and how often it began again
            "since": torch.zeros_like(each),
            "stuck": torch.zeros_like(each),
            "turns": torch.zeros_like(each, dtype=torch.long),
            "hopped": torch.zeros_like(each, dtype=torch.bool),
            "held": torch.zeros_like(each, dtype=torch.bool),
        }

    @property
    def _first_limit(self) -> float:
        return FIRST_LIMIT * math.sqrt(self.response.directions.shape[2])

    def differentiate(self, evaluation: Evaluation, codes: Tensor) -> Tensors:
        """Return the offsets r of the views, which the steps are computed from."""
        return {"offset": evaluation.tensors["offset"]}

    def move(self, codes: Tensor, steps: Tensor, derivatives: Tensors, state: Tensors) -> Tensor:
        """Return the codes after one update; corrects J by what the last one did."""
        # the engine restarts an image with a non-finite offset; its step must only not disturb the others
        offset = derivatives["offset"].nan_to_num(0, 0, 0)
        starts = (steps == 0)[:, None].expand_as(state["since"])
        kept = self._learn(offset, state) | starts | state["hopped"]
        state["codes"] = torch.where(expanded(kept, codes), codes, state["codes"])
        state["offset"] = torch.where(kept[..., None], offset, state["offset"])
        state["begun_offset"] = torch.where(starts[..., None], offset, state["begun_offset"])
        self._turn(state)
        offset = state["offset"]

        target = self._target(offset, state["first"], state["since"] == 0)
        state["since"] = state["since"] + 1
        jacobian = state["jacobian"]
        across = jacobian.transpose(2, 3)
        normal = across @ jacobian
        size = normal.diagonal(dim1=2, dim2=3)
        damping = state["damping"] * size.amax(dim=2).clamp_min(1e-12)
        damped = normal + torch.diag_embed(damping[..., None].expand_as(size))
        wanted = across @ (target - offset)[..., None]
        change = torch.linalg.solve(damped, wanted)[..., 0]
        length = change.norm(dim=2).clamp_min(1e-12)
        change = change * (state["limit"] / length).clamp_max(1.0)[..., None]
        # a view that has hopped is evaluated where it is
        change = change.masked_fill(state["hopped"][..., None], 0.0)
        if self.range.limits:
            change = self._within_range(change, state)
            held = change.norm(dim=2) < SHORTEST * math.sqrt(self.response.directions.shape[2])
            change = change.masked_fill(held[..., None], 0.0)
            state["held"] = held & ~state["hopped"]
        state["change"] = change
        moved = (change @ self.response.directions[state["rows"]]).unflatten(2, codes.shape[2:])
        after: Tensor = state["codes"] + self.scale * moved
        return after

    def _within_range(self, change: Tensor, state: Tensors) -> Tensor:
        """Return changes `(A, n, m)` along the directions that end at the nearest place in the range.

        What of a view's change of code lies across the directions stays: its length counts, its part along
        them is drawn back.
        """
        directions = self.response.directions[state["rows"]]
        offset = (state["codes"] - self.anchor_codes[state["rows"]][:, None]) / self.scale
        now = offset.flatten(2) @ directions.transpose(1, 2)
        across = offset.flatten(2).square().sum(dim=2) - now.square().sum(dim=2)
        after = now + change
        factor = self.range.factor(after.norm(dim=2), directions.shape[2], across.clamp_min(0))
        # what is inside moves exactly as it would without a range
        return torch.where((factor == 1)[..., None], change, factor[..., None] * after - now)

    def _turn(self, state: Tensors) -> None:
        """Let views that are stuck begin again: against their direction, then along those of other views.

        An encoder may answer to one sign of a direction alone, where the pixels that it reads are saturated.
        """
        stuck = state["stuck"] >= PATIENCE
        state["hopped"] = torch.zeros_like(stuck)
        if not bool(stuck.any()):
            return
        num_views = stuck.shape[1]
        turns = torch.where(stuck, state["turns"] + 1, state["turns"])
        views = torch.arange(num_views, device=stuck.device)
        other = (views + turns // 2) % num_views
        along = torch.take_along_dim(state["first"], other[..., None], dim=1)
        turned = torch.where(turns % 2 == 1, -1.0, 1.0).to(along.dtype)[..., None] * along
        anew = {
            "first": turned,
            "codes": state["begun"],
            "offset": state["begun_offset"],
            "jacobian": self.response.jacobian[state["rows"]][:, None].expand_as(state["jacobian"]),
            "damping": torch.full_like(state["damping"], DAMPING),
            "limit": torch.full_like(state["limit"], self._first_limit),
            "change": torch.zeros_like(state["change"]),
            "since": torch.zeros_like(state["since"]),
            "stuck": torch.zeros_like(state["stuck"]),
            "turns": turns,
        }
        near = (self._gap(state["offset"]) <= self.config.tolerance) & ~stuck
        following = (views[:, None] + torch.arange(1, num_views + 1, device=stuck.device)) % num_views
        first_near = near[:, following].to(torch.uint8).argmax(dim=2, keepdim=True)
        place = torch.take_along_dim(following.expand(len(near), -1, -1), first_near, dim=2)[..., 0]
        hopped = stuck & (turns > TURNS_BEFORE_HOP) & near.any(dim=1, keepdim=True)
        share = min(1.0, self.config.init_noise / max(self.config.least_step, 1e-12))
        noise = share * (state["begun"] - self.anchor_codes[state["rows"]][:, None])
        there = torch.take_along_dim(state["codes"], expanded(place, state["codes"]), dim=1)
        theirs = torch.take_along_dim(state["jacobian"], place[..., None, None], dim=1)
        for name, values in anew.items():
            state[name] = torch.where(expanded(stuck, values), values, state[name])
        landed = there + HOP_NOISE * noise
        if self.range.limits:
            landed = self.range.drawn_back(landed, self.anchor_codes[state["rows"]], self.scale)
        state["codes"] = torch.where(expanded(hopped, there), landed, state["codes"])
        state["jacobian"] = torch.where(hopped[..., None, None], theirs, state["jacobian"])
        state["hopped"] = hopped

    def _learn(self, offset: Tensor, state: Tensors) -> Tensor:
        """Correct J, μ and the limits by the last step; return which views keep it, `(A, n)`."""
        change, jacobian = state["change"], state["jacobian"]
        did = offset - state["offset"]
        missed = did - (jacobian @ change[..., None])[..., 0]
        square = change.square().sum(dim=2)
        stepped = square > 0
        secant = missed[..., None] * (change / square.clamp_min(1e-12)[..., None])[:, :, None]
        state["jacobian"] = torch.where(stepped[..., None, None], jacobian + secant, jacobian)
        fit = missed.norm(dim=2) / did.norm(dim=2).clamp_min(1e-12)

        gap, before = self._gap(offset), self._gap(state["offset"])
        # the first step goes from the anchor to ε₁: nearer than the anchor is good enough
        tolerance = self.config.tolerance
        kept = gap <= torch.where(state["since"] == 1, before, before.clamp_min(tolerance))
        little = (gap > tolerance) & (~kept | (gap > LITTLE_PROGRESS * before))
        tried = stepped | state["held"]
        state["stuck"] = torch.where(tried & little, state["stuck"] + 1, torch.zeros_like(gap))
        damping, limit = state["damping"], state["limit"]
        better = torch.where(fit < GOOD_FIT, DAMPING_DECAY * damping, damping)
        wider = torch.where(fit < VERY_GOOD_FIT, LIMIT_GROWTH * limit, limit)
        shorter = LIMIT_DECAY * torch.minimum(limit, square.sqrt())
        state["damping"] = torch.where(stepped, torch.where(kept, better, DAMPING_GROWTH * damping), damping)
        state["limit"] = torch.where(stepped, torch.where(kept, wider, shorter), limit)
        return kept

    def _target(self, offset: Tensor, first: Tensor, begins: Tensor) -> Tensor:
        """Return the offsets to go to; images that are spread enough only correct their distance."""
        config = self.config
        beside = begins & (self.metric.length(offset) < config.boundary_distance / 2)
        begun = torch.where(beside[..., None], config.boundary_distance * first, offset)
        goal = spread_goal(config, offset.shape[1])
        wide = self.metric.mean_pairwise(offset).mean(dim=1) >= goal
        rest = eq2_target(offset, config, num_steps=0)
        apart = torch.where(wide[:, None, None], rest, eq2_target(offset, config, num_steps=LATER_STEPS))
        return self.metric.reaching(torch.where(beside[..., None], eq2_target(begun, config), apart))

    def _gap(self, offset: Tensor) -> Tensor:
        """Return how far views are from the distance at which eq. 2 would have them, `(A, n)`."""
        target = eq2_target(offset + 1e-12, self.config, num_steps=0)
        gap: Tensor = (self.metric.length(offset) - target.norm(dim=2)).abs()
        return gap
