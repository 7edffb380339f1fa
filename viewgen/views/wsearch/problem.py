"""W-search: views at a chosen distance from their anchor in the encoder's space (Han et al., 2023, eq. 2).

For every image, n codes c_k minimise

    mean_k (‖f(g(c_k)) − f(x₀)‖₂ − ε₁)²  +  λ · mean_k max(0, ε₂ − d̄_k)

where d̄_k is the mean distance of view k to the other n − 1 views. Distances are between L2-normalised
projections, in [0, 2]. n points at distance ε₁ from one anchor have a mean pairwise distance of at most
`feasible_spread`, so ε₂ pushes views apart and need not be reached. An image has converged when every view is
within a tolerance of ε₁ and its spread has reached a share of the bound or has stopped growing. Codes are
updated by `viewgen.views.wsearch.newton`, or by Adam on the sum above.

Shape legend: N images, A active images, n views, … a code's own dimensions, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator, code_unit
from viewgen.optimise.adam import Adam
from viewgen.optimise.slots import Aim, Evaluation, SlotOptions, SlotResult, UpdateRule, expanded, optimise
from viewgen.views.distances import mean_pairwise_distance
from viewgen.views.source import Draws
from viewgen.views.wsearch.newton import BoundarySteps, boundary_aims
from viewgen.views.wsearch.settings import WSearchConfig
from viewgen.views.wsearch.start import boundary_scales

__all__ = [
    "WSearchProblem",
    "boundary_uniformity_loss",
    "feasible_spread",
    "initial_codes",
    "near_boundary",
    "search_views",
]

# The first steps meet gradients many times those near the boundary; a second moment that remembers a thousand
# steps (Adam's usual 0.999) would hold an overshot view where it is.
BETAS = (0.9, 0.99)
# Images whose start is looked for together: it bounds the memory of their directions.
START_IMAGES = 64


def feasible_spread(epsilon_boundary: float, num_views: int) -> float:
    """Return the largest mean pairwise distance of n points at distance ε₁ from one point: ε₁·√(2n/(n−1)).

    A regular simplex around the anchor attains it (0.454 for ε₁ 0.3 and 8 views); 0 for a single view.
    """
    return 0.0 if num_views < 2 else epsilon_boundary * math.sqrt(2 * num_views / (num_views - 1))


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
    """Return True for views near enough to ε₁ for their image to stop; distances may have any shape."""
    if config.boundary == "squared":
        return (distance - config.boundary_distance).abs() <= config.tolerance
    return distance >= config.boundary_distance - config.tolerance


def initial_codes(
    anchors: Tensor,
    draws: Draws,
    num_views: int,
    *,
    noise: float | Tensor,
    stage: str,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Return n copies of every anchor code, each with separate noise.

    Args:
        anchors: refined inversions, `(A, ...)`.
        draws: random numbers of the images.
        num_views: n.
        noise: standard deviation in units of `scale`, one for all views or one per view, `(A, n)`.
        stage: address of the draw.
        scale: the generator's `code_scale`.

    Returns:
        codes, `(A, n, ...)`, on the anchors' device.
    """
    offsets = draws.normal(stage, num_views, *anchors.shape[1:]).to(anchors)
    if isinstance(noise, Tensor):
        noise = expanded(noise, offsets)
    return anchors[:, None] + noise * (scale * offsets)


class _ClampToRange(torch.autograd.Function):
    """Clamp to [−1, 1]; a saturated pixel passes the gradients whose descent leads back into the range.

    A plain clamp stops every gradient of a saturated pixel. A view with saturated strokes and background
    (digits, fashion-mnist) would then stop moving after its first steps.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        gradient = gradients[0]
        useful = ((x <= 1) | (gradient > 0)) & ((x >= -1) | (gradient < 0))
        return gradient * useful.to(gradient.dtype)


def clamp_to_range(images: Tensor) -> Tensor:
    """Clamp model images to [−1, 1], with gradients that can lead a saturated pixel back into the range."""
    return cast(Tensor, _ClampToRange.apply(images))  # type: ignore[no-untyped-call]


class WSearchProblem:
    """Eq. 2 for the images of one shard, as a `viewgen.optimise.slots.Problem`.

    Attributes:
        distance: anchor distances at the last evaluation of each image, `(N, n)`.
        spread: mean pairwise distance at the last evaluation of each image, `(N,)`.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        *,
        anchor_features: Tensor,
        anchor_codes: Tensor,
        draws: Draws,
        num_views: int,
        config: WSearchConfig,
        batch_size: int,
    ) -> None:
        self.generator, self.encoder, self.config = generator, encoder, config
        self.anchor_features = anchor_features
        self.anchor_codes = anchor_codes
        self.draws = draws
        self.num_views = num_views
        self.num_images = len(anchor_codes)
        self.device = anchor_codes.device
        self.distance = anchor_codes.new_full((self.num_images, num_views), torch.nan)
        self.spread = anchor_codes.new_zeros(self.num_images)
        self.noise = anchor_codes.new_full((self.num_images, num_views), config.init_noise)
        if config.start == "boundary":
            for rows in torch.arange(self.num_images, device=self.device).split(START_IMAGES):
                self.noise[rows] = self._boundary_scales(rows, batch_size)
        self.best_spread = anchor_codes.new_zeros(self.num_images)
        self.best_step = torch.zeros(self.num_images, dtype=torch.long, device=self.device)
        self.bound = feasible_spread(config.boundary_distance, num_views)

    def start(self, rows: Tensor) -> Tensor:
        """Return the first codes of the images `rows`."""
        self.best_spread[rows] = 0
        self.best_step[rows] = 0
        return self._codes(rows, self.noise[rows])

    def _codes(self, rows: Tensor, noise: float | Tensor) -> Tensor:
        anchors, draws = self.anchor_codes[rows], self.draws.of(rows)
        scale = self.generator.code_scale
        return initial_codes(anchors, draws, self.num_views, noise=noise, stage="wsearch", scale=scale)

    def _boundary_scales(self, rows: Tensor, batch_size: int) -> Tensor:
        anchors = self.anchor_codes[rows]
        return boundary_scales(
            self.generator,
            self.encoder,
            anchors,
            self.anchor_features[rows],
            self._codes(rows, 1.0) - anchors[:, None],
            self.config.boundary_distance,
            tolerance=self.config.tolerance / 2,
            max_passes=self.config.start_passes,
            batch_size=batch_size,
        )

    def evaluate(self, codes: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        """Evaluate eq. 2 and the stopping rule."""
        config = self.config
        images = clamp_to_range(self.generator.decode(codes.flatten(0, 1)))
        z = self.encoder(images).unflatten(0, (-1, self.num_views))
        difference = z - self.anchor_features[rows][:, None]
        distance = difference.square().sum(dim=2).clamp_min(1e-12).sqrt()
        pairwise = mean_pairwise_distance(z)
        loss = boundary_uniformity_loss(distance, pairwise, config)
        with torch.no_grad():
            self.distance[rows] = distance.detach()
            spread = pairwise.detach().mean(dim=1)
            self.spread[rows] = spread
            grown = spread > 1.01 * self.best_spread[rows]
            self.best_spread[rows] = torch.where(grown, spread, self.best_spread[rows])
            self.best_step[rows] = torch.where(grown, steps, self.best_step[rows])
            near = near_boundary(distance, config)
            spread_enough = spread >= config.spread_share * self.bound
            stalled = steps - self.best_step[rows] >= config.patience
            done = near.all(dim=1) & (spread_enough | stalled)
        aims: tuple[Aim, ...] = ()
        if config.solver == "boundary":
            missing = config.boundary_distance - distance.detach()
            if config.boundary == "hinge":
                missing = missing.clamp_min(0)
            apart = ~spread_enough & (spread < config.epsilon_uniformity)
            if config.uniformity_weight == 0:
                apart = torch.zeros_like(apart)
            # a view that is near rests once its image need not spread
            missing = missing.masked_fill(near & ~apart[:, None], 0.0)
            aims = boundary_aims(z, self.anchor_features[rows], distance, missing=missing, apart=apart)
        return Evaluation(loss, done, aims)


def update_rule(config: WSearchConfig, unit: float = 1.0) -> UpdateRule:
    """Return the update rule of the solver; `unit` is the standard deviation of a code's elements."""
    if config.solver == "boundary":
        return BoundarySteps(tolerance=config.tolerance, unit=unit)
    return Adam(learning_rate=config.learning_rate * unit, betas=BETAS, decay_steps=config.decay_steps)


def search_views(problem: WSearchProblem, num_slots: int, group_size: int | None = None) -> SlotResult:
    """Run W-search on the images of `problem`, `num_slots` at once, evaluated in groups of `group_size`."""
    config = problem.config
    options = SlotOptions(
        num_slots=num_slots,
        max_steps=config.max_steps,
        group_size=group_size,
    )
    return optimise(problem, options, update_rule(config, code_unit(problem.generator)))
