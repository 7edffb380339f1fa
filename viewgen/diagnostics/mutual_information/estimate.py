"""Estimation: training on one part of the images, an estimate with its interval and caveats on another."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewgen.diagnostics.mutual_information.bound import Bound, at_least_zero
from viewgen.diagnostics.mutual_information.canonical import CanonicalCoordinates
from viewgen.diagnostics.mutual_information.caveats import (
    below_zero,
    blank_images,
    caveats,
    heavy_tails,
    still_rising,
)
from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimator import Estimator, derangements
from viewgen.diagnostics.mutual_information.networks import (
    TRUNK_FEATURES,
    ImageStatistics,
    SeparableStatistics,
    Standardised,
    StatisticsNetwork,
    VectorStatistics,
    VectorTrunk,
    image_trunk,
)
from viewgen.diagnostics.mutual_information.pairs import Pairs, check_sample
from viewgen.diagnostics.mutual_information.training import Trained, calibrate, split_images, train
from viewgen.errors import DataError
from viewgen.randomness import addressed_generator, addressed_seed

__all__ = ["Bound", "MIEstimate", "bootstrap", "estimate_mutual_information", "held_out_scores"]

MAX_BLOCK = 1024
MAX_LOOKED_AT = 512
IMAGES_AT_ONCE = 256
NEAR_CEILING_NATS = 1.0
# of a separable critic of vectors
VECTOR_HIDDEN, VECTOR_FEATURES = 128, 128


@dataclass(frozen=True, kw_only=True, slots=True)
class MIEstimate:
    """Mutual information of a pair of views, estimated on held-out images.

    The interval is that of the bound which the trained network reaches, over the draw of the held-out images.
    It does not include the gap between that bound and the mutual information itself.

    Attributes:
        estimator: name of the trained estimator.
        nats: its estimate.
        low: lower end of its confidence interval.
        high: upper end of its confidence interval.
        bounds: every estimator's value on the same network, each with its own calibration.
        warnings: caveats of the estimate.
        num_train: number of training images.
        num_validation: number of validation images.
        num_held_out: number of held-out images.
        num_draws: draws of every held-out image's views.
        batch_size: K of InfoNCE.
        ceiling: upper limit of the trained estimator for any data, in nats, or None.
        step: update whose weights were kept.
        num_steps: number of updates.
        effective_pairs: effective sample size (Σe^T)²/Σe^2T of the marginal pairs.
        seconds: wall-clock time.
    """

    estimator: str
    nats: float
    low: float
    high: float
    bounds: dict[str, Bound]
    warnings: tuple[str, ...] = field(default=())
    num_train: int
    num_validation: int
    num_held_out: int
    num_draws: int
    batch_size: int
    ceiling: float | None = None
    step: int
    num_steps: int
    effective_pairs: float
    seconds: float = 0.0

    @property
    def bits(self) -> tuple[float, float, float]:
        """The estimate and its interval in bits."""
        return self.nats / math.log(2), self.low / math.log(2), self.high / math.log(2)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object; `from_json` reads it."""
        return {**asdict(self), "warnings": list(self.warnings)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "MIEstimate":
        """Read what `to_json` wrote."""
        bounds = {name: Bound(**values) for name, values in document["bounds"].items()}
        return cls(**{**document, "bounds": bounds, "warnings": tuple(document["warnings"])})


def estimate_mutual_information(
    pairs: Pairs,
    config: MIConfig | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[int], object] = lambda _: None,
) -> MIEstimate:
    """Estimate the mutual information of pairs of views.

    The images are divided into three parts. A statistics network is trained on the first, its weights are
    selected on the second, and the estimate is made on the third, over all pairs of its images.

    Args:
        pairs: source of pairs, for example `ArrayPairs` or `ViewPairs`.
        config: settings of the estimate; by default MINE.
        seed: seed of the split, the batches, the weights and the views. The same seed gives the same numbers
            on the same machine with the same number of threads; otherwise they differ by rounding.
        device: ``"cpu"`` or ``"cuda"``.
        on_step: callback called after every update with its number.

    Raises:
        DataError: too few images for a batch, views of different sizes, views without variation, or values
            that are not finite.
    """
    config = config or MIConfig()
    start = time.monotonic()
    split = split_images(pairs.num_images, config, seed)
    x, y = pairs.draw(split.held_out[:MAX_LOOKED_AT], seed, "mi look", 0)
    check_sample(x, y)
    config = config.resolved(vectors=x.ndim == 2)
    if x.ndim == 2:
        x, y = pairs.draw(split.train, seed, "mi fit", 0)
        check_sample(x, y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(addressed_seed(seed, "mi network"))
        network = build_network(x, y, config).to(device)
    trained = train(network, pairs, split, config, seed=seed, device=device, on_step=on_step)
    num_draws = min(config.num_draws, pairs.num_draws)
    blocks = held_out_scores(
        trained.network,
        pairs,
        split.held_out,
        num_draws=num_draws,
        batch_size=config.batch_size,
        seed=seed,
        device=device,
    )
    if not all(bool(torch.isfinite(scores).all()) for scores in blocks):
        raise DataError(
            "the scores of some held-out images are not finite: values far outside those of the images "
            "trained on; scale the data to about unit size"
        )
    measured = read_scores(blocks, trained, config, seed)
    return replace(
        measured,
        warnings=(*measured.warnings, *blank_images(x, y), *heavy_tails(x, y)),
        num_train=len(split.train),
        num_validation=len(split.validation),
        num_draws=num_draws,
        seconds=time.monotonic() - start,
    )


def fit_vector_statistics(x: Tensor, y: Tensor, estimator: Estimator) -> VectorStatistics:
    """Return a statistics network for vectors, which starts from the Gaussian log density ratio.

    Args:
        x, y: training pairs, `(N, D_x)` and `(N, D_y)`.
        estimator: estimator whose objective on these pairs sets the weight of the ratio.
    """
    network = VectorStatistics(CanonicalCoordinates(x, y))
    u, v = network.coordinates(x[:MAX_BLOCK], y[:MAX_BLOCK])
    scores = network.coordinates.log_ratio(u, v)
    network.weight.fill_(calibrate(estimator, scores[None]).scale)
    network.largest.fill_((scores.diagonal() * network.weight).max())
    return network


def build_network(x: Tensor, y: Tensor, config: MIConfig) -> StatisticsNetwork:
    """Return a statistics network for views such as `x` and `y`, `(B, D)` or `(B, C, H, W)`."""
    if config.critic == "separable":
        return _separable(x, y, config)
    if x.ndim == 2:
        return fit_vector_statistics(x, y, config.build(config.estimator))
    shapes = tuple(x.shape[1:]), tuple(y.shape[1:])
    return ImageStatistics(*shapes, width=config.width, shared_trunk=config.shared_trunk)


def _separable(x: Tensor, y: Tensor, config: MIConfig) -> SeparableStatistics:
    """Return a separable critic; vectors have a trunk for each, of standardised coordinates."""
    temperature = config.critic_temperature
    if x.ndim == 2:
        trunks = [
            nn.Sequential(Standardised(side), VectorTrunk(side.shape[1], VECTOR_HIDDEN, VECTOR_FEATURES))
            for side in (x, y)
        ]
        return SeparableStatistics(*trunks, num_features=VECTOR_FEATURES, temperature=temperature)
    shared = config.shared_trunk and x.shape[1:] == y.shape[1:]
    trunk_y = None if shared else image_trunk(tuple(y.shape[1:]), config.width)
    trunk_x = image_trunk(tuple(x.shape[1:]), config.width)
    return SeparableStatistics(trunk_x, trunk_y, num_features=TRUNK_FEATURES, temperature=temperature)


@torch.no_grad()
def held_out_scores(
    network: StatisticsNetwork,
    pairs: Pairs,
    positions: NDArray[np.int64],
    *,
    num_draws: int,
    batch_size: int,
    seed: int,
    device: str = "cpu",
) -> list[Tensor]:
    """Return the scores of all pairs of held-out images, in blocks of at most about a thousand.

    Args:
        network: statistics network.
        pairs: source of the views.
        positions: positions of the held-out images.
        num_draws: R, draws of every image's views.
        batch_size: smallest size of a block, unless there are fewer images.
        seed: seed of the draws.
        device: device of the network.

    Returns:
        scores of each block, float64 `(R, N_g, N_g)`, on the CPU.
    """
    blocks = []
    num_blocks = -(-len(positions) // max(MAX_BLOCK, 2 * batch_size))
    for block, rows in enumerate(np.array_split(positions, num_blocks)):
        draws = []
        for draw in range(num_draws):
            parts = []
            for part, some in enumerate(np.array_split(rows, -(-len(rows) // IMAGES_AT_ONCE))):
                x, y = pairs.draw(some, seed, "mi held out", block, part, draw)
                check_sample(x, y, variation=False)
                parts.append(network.features(x.to(device), y.to(device)))
            x_NF, y_NF = (torch.cat(features) for features in zip(*parts, strict=True))
            draws.append(network.pair_scores(x_NF, y_NF).cpu().double())
        blocks.append(torch.stack(draws))
    return blocks


def read_scores(blocks: Sequence[Tensor], trained: Trained, config: MIConfig, seed: int) -> MIEstimate:
    """Return every estimator's value on held-out scores, and the warnings about the trained one."""
    bounds = {}
    for name in config.read_off:
        estimator, calibration = config.build(name), trained.calibrations[name]
        calibrated = [calibration.apply(scores) for scores in blocks]
        bounds[name] = at_least_zero(bootstrap(estimator, calibrated, config, seed))
    chosen = bounds[config.estimator]
    calibration = trained.calibrations[config.estimator]
    effective = effective_pairs([calibration.apply(scores) for scores in blocks])
    num_held_out = sum(scores.shape[-1] for scores in blocks)
    estimator = config.build(config.estimator)
    found = caveats(estimator, chosen, num_held_out, effective, config)
    return MIEstimate(
        estimator=config.estimator,
        nats=chosen.nats,
        low=chosen.low,
        high=chosen.high,
        bounds=bounds,
        warnings=(*below_zero(bounds), *found, *still_rising(trained.objectives)),
        num_train=0,
        num_validation=0,
        num_held_out=num_held_out,
        num_draws=len(blocks[0]),
        batch_size=config.batch_size,
        ceiling=estimator.ceiling,
        step=trained.step,
        num_steps=config.num_steps,
        effective_pairs=effective,
    )


def bootstrap(estimator: Estimator, blocks: Sequence[Tensor], config: MIConfig, seed: int) -> Bound:
    """Estimate, with a basic bootstrap interval over images.

    Images are resampled with all their views and all their pairs. The interval is reflected at the estimate
    (2·estimate − quantile): a mean of exponentials misses rare large terms, which biases the estimate
    upwards, and a resampling misses more of them, which biases it further in the same direction. An unbiased
    estimate has no such bias to be mirrored; the resamplings, which repeat images among the candidates, still
    have it, and are centred at the estimate first.

    Args:
        estimator: estimator of the value.
        blocks: held-out scores, float64 `(R, N_g, N_g)` each.
        config: number of resamplings, confidence.
        seed: seed of the resamplings.
    """
    sizes = [scores.shape[-1] for scores in blocks]
    num_images = sum(sizes)
    generator = addressed_generator(seed, "mi bootstrap")
    draws = torch.randint(num_images, (config.num_resamplings, num_images), generator=generator)
    w_SN = torch.zeros(config.num_resamplings, num_images, dtype=torch.float64)
    w_SN.scatter_add_(1, draws, torch.ones_like(w_SN))
    w_SN = torch.cat([torch.ones(1, num_images, dtype=torch.float64), w_SN])
    values = estimator.estimate(blocks, w_SN.split(sizes, dim=1))
    nats, resampled = float(values[0]), values[1:]
    if estimator.is_unbiased:
        resampled = resampled - resampled.mean() + nats
    tail = (1 - config.confidence) / 2
    quantiles = torch.quantile(resampled, torch.tensor([1 - tail, tail], dtype=torch.float64))
    low, high = (2 * nats - quantiles).tolist()
    if estimator.ceiling is not None:
        high = min(high, max(estimator.ceiling, nats))
    return Bound(nats=nats, low=low, high=high, saturated=_is_saturated(estimator, nats))


def effective_pairs(blocks: Sequence[Tensor]) -> float:
    """Return (Σe^T)² / Σe^2T over the marginal pairs of the first draw."""
    marginal = torch.cat([derangements(scores[0]).flatten() for scores in blocks])
    return math.exp(float(2 * torch.logsumexp(marginal, 0) - torch.logsumexp(2 * marginal, 0)))


def _is_saturated(estimator: Estimator, nats: float) -> bool:
    return estimator.ceiling is not None and nats > estimator.ceiling - NEAR_CEILING_NATS
