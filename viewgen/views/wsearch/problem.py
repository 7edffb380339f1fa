"""W-search: views at a chosen distance from their anchor in the encoder's space (Han et al., 2023, eq. 2).

For every image, n codes c_k are searched whose views minimise eq. 2 (`viewgen.views.wsearch.loss`), from the
anchor's code with a little noise. Distances are between L2-normalised projections, in [0, 2]. An image has
converged when every view is within a tolerance of ε₁ and its spread has reached a share of the feasible one,
or ε₂, or has stopped growing; or when eq. 2 is below `stop_loss`. Codes are updated by
`viewgen.views.wsearch.newton`, or by Adam on eq. 2.

Shape legend: N images, A active images, n views, … a code's own dimensions, K projection dimension.

References:
    Constructive Assimilation: Boosting Contrastive Learning Performance through View Generation Strategies,
    Han et al., 2023, equation 2, https://arxiv.org/abs/2304.00601
"""

from typing import Any, cast

import torch
from torch import Tensor

from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator, code_unit
from viewgen.optimise.adam import Adam
from viewgen.optimise.slots import Aim, Evaluation, SlotOptions, SlotResult, UpdateRule, expanded, optimise
from viewgen.views.boundary_start import boundary_scales
from viewgen.views.distances import EUCLIDEAN, Metric
from viewgen.views.source import Draws
from viewgen.views.wsearch.boundary_steps import BoundarySteps, boundary_aims
from viewgen.views.wsearch.code_range import Confined, code_range
from viewgen.views.wsearch.loss import (
    boundary_uniformity_loss,
    feasible_spread,
    near_boundary,
    spread_goal,
)
from viewgen.views.wsearch.newton import NewtonSteps, Response, response
from viewgen.views.wsearch.settings import WSearchConfig

__all__ = [
    "WSearchProblem",
    "clamp_to_range",
    "initial_codes",
    "search_views",
]

# The first steps meet gradients many times those near the boundary; a second moment that remembers a thousand
# steps (Adam's usual 0.999) would hold an overshot view where it is.
BETAS = (0.9, 0.99)
# Images whose start is looked for together: it bounds the memory of their directions.
START_IMAGES = 64


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

    Args:
        generator: g.
        encoder: f, or the features of several encoders (`viewgen.views.wsearch.features`).
        anchor_features: f(x₀), `(N, K)`.
        anchor_codes: codes of the anchors, `(N, ...)`.
        draws: random numbers of the images.
        num_views: n.
        config: settings.
        batch_size: exact number of codes per evaluation before the first update.
        metric: distance between the projections.

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
        metric: Metric = EUCLIDEAN,
    ) -> None:
        self.generator, self.encoder, self.config = generator, encoder, config
        self.metric, self.range = metric, code_range(config)
        self.anchor_features = anchor_features
        self.anchor_codes = anchor_codes
        self.draws = draws
        self.num_views = num_views
        self.num_images = len(anchor_codes)
        self.device = anchor_codes.device
        self.distance = anchor_codes.new_full((self.num_images, num_views), torch.nan)
        self.spread = anchor_codes.new_zeros(self.num_images)
        noise = config.truncation * config.init_noise
        self.noise = anchor_codes.new_full((self.num_images, num_views), noise)
        self.batch_size = batch_size
        groups = torch.arange(self.num_images, device=self.device).split(START_IMAGES)
        if config.start == "boundary":
            for rows in groups:
                self.noise[rows] = self._boundary_scales(rows, batch_size)
        self.response: Response | None = None
        if config.solver == "newton":
            found = [self._response(rows) for rows in groups]
            self.response = Response(
                torch.cat([part.directions for part in found]), torch.cat([part.jacobian for part in found])
            )
        self.best_spread = anchor_codes.new_zeros(self.num_images)
        self.best_step = torch.zeros(self.num_images, dtype=torch.long, device=self.device)
        self.bound = feasible_spread(config.boundary_distance, num_views)
        self.goal = spread_goal(config, num_views)

    def start(self, rows: Tensor) -> Tensor:
        """Return the first codes of the images `rows`."""
        self.best_spread[rows] = 0
        self.best_step[rows] = 0
        codes = self._codes(rows, self.noise[rows])
        if not self.range.limits:
            return codes
        return self.range.drawn_back(codes, self.anchor_codes[rows], self.generator.code_scale)

    def _codes(self, rows: Tensor, noise: float | Tensor) -> Tensor:
        anchors, draws = self.anchor_codes[rows], self.draws.of(rows)
        scale = self.generator.code_scale
        return initial_codes(anchors, draws, self.num_views, noise=noise, stage="wsearch", scale=scale)

    def _boundary_scales(self, rows: Tensor, batch_size: int) -> Tensor:
        anchors = self.anchor_codes[rows]
        scales, _ = boundary_scales(
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
        return scales

    def _response(self, rows: Tensor) -> Response:
        return response(
            self.generator,
            self.encoder,
            self.anchor_codes[rows],
            self.draws.of(rows),
            num_views=self.num_views,
            epsilon_boundary=self.config.boundary_distance,
            batch_size=self.batch_size,
        )

    def evaluate(self, codes: Tensor, rows: Tensor, steps: Tensor) -> Evaluation:
        """Evaluate eq. 2 and the stopping rule."""
        config = self.config
        images = clamp_to_range(self.generator.decode(codes.flatten(0, 1)))
        z = self.encoder(images).unflatten(0, (-1, self.num_views))
        difference = z - self.anchor_features[rows][:, None]
        distance, pairwise = self.metric.norm(difference), self.metric.mean_pairwise(z)
        loss = boundary_uniformity_loss(distance, pairwise, config)
        with torch.no_grad():
            self.distance[rows] = distance.detach()
            spread = pairwise.detach().mean(dim=1)
            self.spread[rows] = spread
            grown = spread > 1.01 * self.best_spread[rows]
            self.best_spread[rows] = torch.where(grown, spread, self.best_spread[rows])
            self.best_step[rows] = torch.where(grown, steps, self.best_step[rows])
            near = near_boundary(distance, config)
            spread_enough = spread >= self.goal
            stalled = steps - self.best_step[rows] >= config.patience
            done = near.all(dim=1) & (spread_enough | stalled)
            if config.stop_loss is not None:
                done = loss <= config.stop_loss
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
        return Evaluation(loss, done, aims, {"offset": difference.detach()})


def update_rule(problem: WSearchProblem) -> UpdateRule:
    """Return the update rule of the problem's solver."""
    config, unit = problem.config, code_unit(problem.generator)
    if problem.response is not None:
        return NewtonSteps(
            config=config,
            anchor_codes=problem.anchor_codes,
            response=problem.response,
            scale=problem.generator.code_scale,
            metric=problem.metric,
            range=problem.range,
        )
    if config.solver == "boundary":
        return BoundarySteps(tolerance=config.tolerance, unit=unit)
    rate = config.truncation * config.learning_rate * unit
    adam = Adam(learning_rate=rate, betas=BETAS, decay_steps=config.decay_steps)
    if not problem.range.limits:
        return adam
    anchors, scale = problem.anchor_codes, problem.generator.code_scale
    return Confined(rule=adam, range=problem.range, anchor_codes=anchors, scale=scale)


def search_views(problem: WSearchProblem, num_slots: int, group_size: int | None = None) -> SlotResult:
    """Run W-search on the images of `problem`, `num_slots` at once, evaluated in groups of `group_size`."""
    options = SlotOptions(
        num_slots=num_slots,
        max_steps=problem.config.max_steps,
        keep_best="unfinished" if problem.config.solver == "newton" else False,
        group_size=group_size,
    )
    return optimise(problem, options, update_rule(problem))
