"""W-search: views at a chosen distance from their anchor in the encoder's space (eq. 2 of the paper).

For every image, n codes c_k minimise

    mean_k (‖f(g(c_k)) − f(x₀)‖₂ − ε₁)²  +  λ · mean_k max(0, ε₂ − d̄_k)

where d̄_k is the mean distance of view k to the other n − 1 views. Distances lie between L2-normalised
projections, in [0, 2]. n points at distance ε₁ from one anchor have a mean pairwise distance of at most
`feasible_spread`, so ε₂ is a push rather than a target, and an image has converged when every view is within
a tolerance of ε₁ and its spread has reached a share of the bound or has stopped growing. Codes are moved by
`viewgen.views.wsearch.newton`, or by Adam on the sum above.

Shape legend: N images, A active images, n views, … a code's own dimensions, K projection dimension.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from viewgen.errors import UsageError
from viewgen.images import to_model, to_storage
from viewgen.networks.encoder import Encoder
from viewgen.networks.generator import Generator, code_unit
from viewgen.networks.precision import Precision, check_precision
from viewgen.optimise.adam import Adam
from viewgen.optimise.slots import (
    Aim,
    Evaluation,
    SlotOptions,
    SlotResult,
    UpdateRule,
    equal_parts,
    expanded,
    optimise,
)
from viewgen.randomness import addressed_normal
from viewgen.views.wsearch.newton import BoundarySteps, boundary_aims
from viewgen.views.wsearch.start import boundary_scales

__all__ = [
    "WSearchConfig",
    "WSearchProblem",
    "boundary_uniformity_loss",
    "feasible_spread",
    "initial_codes",
    "mean_pairwise_distance",
    "near_boundary",
    "search_views",
]

# The first steps meet gradients many times those near the boundary; a second moment that remembers a thousand
# steps (Adam's usual 0.999) would hold an overshot view where it is.
BETAS = (0.9, 0.99)
# Images whose start is looked for together: it bounds the memory of their directions.
START_IMAGES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class WSearchConfig:
    """Settings of W-search.

    Attributes:
        epsilon_boundary: ε₁, distance of a view from its anchor.
        epsilon_uniformity: ε₂, mean distance between an image's views at which the push ends.
        uniformity_weight: λ.
        boundary: δ, ``"squared"`` for (d − ε₁)² or ``"hinge"`` for max(0, ε₁ − d).
        anchor: x₀, the ``"reconstruction"`` g(e(x)) or the ``"image"`` itself.
        start: first codes: ``"boundary"``, random directions followed to ε₁
            (`viewgen.views.wsearch.start`), or ``"noise"``, the anchor's code with a little noise, as in the
            paper.
        solver: ``"boundary"``, Newton steps to ε₁ and along it (`viewgen.views.wsearch.newton`), which
            reads of ε₂ and λ only where the push ends and whether there is one; or ``"adam"`` on eq. 2.
        start_passes: evaluations, at most, that look for a view's place on the boundary.
        init_noise: standard deviation of that little noise.
        learning_rate: of Adam.
        decay_steps: after t updates an image's learning rate is learning_rate / (1 + t / decay_steps), so
            that views near a steep boundary come to rest instead of stepping over it.
        max_steps: updates after which an image counts as not converged.
        tolerance: how far from ε₁ a view of a converged image may lie.
        spread_share: share of the feasible spread that ends the search.
        patience: updates within which the spread must grow by 1 % to go on.
        precision: ``"float32"``, or ``"bfloat16"`` to search with networks in that
            (`viewgen.networks.precision`).
    """

    epsilon_boundary: float = 0.3
    epsilon_uniformity: float = 0.5
    uniformity_weight: float = 0.01
    boundary: Literal["squared", "hinge"] = "squared"
    anchor: Literal["reconstruction", "image"] = "reconstruction"
    start: Literal["boundary", "noise"] = "boundary"
    solver: Literal["adam", "boundary"] = "boundary"
    start_passes: int = 12
    init_noise: float = 0.005
    learning_rate: float = 0.01
    decay_steps: float = 20.0
    max_steps: int = 1000
    tolerance: float = 0.03
    spread_share: float = 0.75
    patience: int = 5
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not 0 < self.epsilon_boundary <= 2:
            raise UsageError(
                f"epsilon_boundary is {self.epsilon_boundary}; distances of unit vectors lie in (0, 2]"
            )
        if not 0 <= self.epsilon_uniformity <= 2 or not 0 <= self.uniformity_weight < math.inf:
            raise UsageError(
                f"epsilon_uniformity is {self.epsilon_uniformity} and uniformity_weight "
                f"{self.uniformity_weight}; expected a distance in [0, 2] and a weight of at least 0"
            )
        if self.boundary not in ("squared", "hinge") or self.anchor not in ("reconstruction", "image"):
            raise UsageError(
                f"boundary is {self.boundary!r} and anchor {self.anchor!r}; expected 'squared' or 'hinge', "
                "and 'reconstruction' or 'image'"
            )
        if self.start not in ("boundary", "noise") or self.start_passes < 1:
            raise UsageError(
                f"start is {self.start!r} and start_passes {self.start_passes}; expected 'boundary' or "
                "'noise', and at least 1"
            )
        if self.solver not in ("adam", "boundary"):
            raise UsageError(f"solver is {self.solver!r}; expected 'adam' or 'boundary'")
        if not 0 < self.init_noise < math.inf:
            raise UsageError(
                f"init_noise is {self.init_noise}; it must be positive, because a view at distance 0 has "
                "no gradient"
            )
        if not self.decay_steps > 0:
            raise UsageError(f"decay_steps is {self.decay_steps}; expected a positive number")
        if self.max_steps < 1 or self.patience < 1:
            raise UsageError(
                f"max_steps is {self.max_steps} and patience {self.patience}; expected at least 1"
            )
        if not (
            0 < self.learning_rate < math.inf and 0 < self.tolerance <= 2 and 0 <= self.spread_share <= 1
        ):
            raise UsageError(
                f"learning_rate is {self.learning_rate}, tolerance {self.tolerance} and spread_share "
                f"{self.spread_share}; expected a positive number, a distance in (0, 2] and a share in [0, 1]"
            )


def feasible_spread(epsilon_boundary: float, num_views: int) -> float:
    """Return the largest mean pairwise distance of n points at distance ε₁ from one point: ε₁·√(2n/(n−1)).

    It is reached by a regular simplex around the anchor (0.454 for ε₁ 0.3 and 8 views); 0 for a single view.
    """
    return 0.0 if num_views < 2 else epsilon_boundary * math.sqrt(2 * num_views / (num_views - 1))


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


def boundary_uniformity_loss(distance: Tensor, pairwise: Tensor, config: WSearchConfig) -> Tensor:
    """Return eq. 2 of every image.

    Args:
        distance: of the views from their anchor, `(A, n)`.
        pairwise: d̄, `(A, n)`.
        config: ε₁, ε₂, λ and δ.

    Returns:
        `(A,)`.
    """
    gap = distance - config.epsilon_boundary
    boundary = gap.square() if config.boundary == "squared" else (-gap).clamp_min(0)
    uniformity = (config.epsilon_uniformity - pairwise).clamp_min(0)
    return boundary.mean(dim=1) + config.uniformity_weight * uniformity.mean(dim=1)


def near_boundary(distance: Tensor, config: WSearchConfig) -> Tensor:
    """Return which views lie where their image may stop, for distances from the anchor of any shape."""
    if config.boundary == "squared":
        return (distance - config.epsilon_boundary).abs() <= config.tolerance
    return distance >= config.epsilon_boundary - config.tolerance


def initial_codes(
    anchor_codes: Tensor,
    image_ids: Tensor,
    num_views: int,
    *,
    noise: float | Tensor,
    seed: int,
    stage: str,
    scale: float | Tensor = 1.0,
) -> Tensor:
    """Return n copies of every anchor code, each with noise that depends on (seed, stage, image, view) alone.

    Args:
        anchor_codes: refined inversions, `(A, ...)`.
        image_ids: source indices, `(A,)`, on the CPU.
        num_views: n.
        noise: standard deviation, of all or of each view, `(A, n)`, in units of `scale`.
        seed, stage: address of the draw.
        scale: the generator's `code_scale`.

    Returns:
        `(A, n, ...)` on the anchors' device.
    """
    shape = tuple(anchor_codes.shape[1:])
    draws = [
        addressed_normal(shape, seed, stage, image_id, view)
        for image_id in image_ids.tolist()
        for view in range(num_views)
    ]
    if not draws:
        return anchor_codes.new_zeros(0, num_views, *shape)
    offsets: Tensor = torch.stack(draws).unflatten(0, (-1, num_views)).to(anchor_codes)
    if isinstance(noise, Tensor):
        noise = expanded(noise, offsets)
    return anchor_codes[:, None] + noise * (scale * offsets)


class _ClampToRange(torch.autograd.Function):
    """Clamp to [−1, 1]; a saturated pixel passes the gradients whose descent leads back into the range.

    A plain clamp stops every gradient of a saturated pixel, and a view whose strokes and background are
    saturated (digits, garments) would rest wherever its first steps took it.
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
        image_ids: Tensor,
        num_views: int,
        config: WSearchConfig,
        seed: int,
        batch_size: int,
    ) -> None:
        self.generator, self.encoder, self.config, self.seed = generator, encoder, config, seed
        self.anchor_features = anchor_features
        self.anchor_codes = anchor_codes
        self.image_ids = image_ids.cpu()
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
        self.bound = feasible_spread(config.epsilon_boundary, num_views)

    def start(self, rows: Tensor) -> Tensor:
        """Return the first codes of the images `rows`."""
        self.best_spread[rows] = 0
        self.best_step[rows] = 0
        return self._codes(rows, self.noise[rows])

    def _codes(self, rows: Tensor, noise: float | Tensor) -> Tensor:
        anchors, ids = self.anchor_codes[rows], self.image_ids[rows.cpu()]
        return initial_codes(
            *(anchors, ids, self.num_views),
            noise=noise,
            seed=self.seed,
            stage="wsearch",
            scale=self.generator.code_scale,
        )

    def _boundary_scales(self, rows: Tensor, batch_size: int) -> Tensor:
        anchors = self.anchor_codes[rows]
        return boundary_scales(
            self.generator,
            self.encoder,
            anchors,
            self.anchor_features[rows],
            self._codes(rows, 1.0) - anchors[:, None],
            self.config.epsilon_boundary,
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
            missing = config.epsilon_boundary - distance.detach()
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
    """Return the rule of the configured solver; `unit` is the deviation of a code's elements."""
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


@torch.no_grad()
def render(generator: Generator, codes: Tensor, batch_size: int) -> Tensor:
    """Return storage images `(B, 3, H, W)`, uint8, of codes `(B, ...)`, always `batch_size` at once."""
    parts = equal_parts(codes, batch_size)
    return torch.cat([to_storage(generator.decode(part))[:kept] for part, kept in parts])


@torch.no_grad()
def project(encoder: Encoder, images: Tensor, batch_size: int) -> Tensor:
    """Return projections `(B, K)`, float32, of storage images `(B, 3, H, W)`, always `batch_size` at once."""
    parts = equal_parts(images, batch_size)
    return torch.cat([encoder(to_model(part))[:kept] for part, kept in parts])
