"""Training of a statistics network on one part of the images, validated on a second.

The result is the moving average of the weights at the check with the best validation objective, together with
a scale for its scores: a network that begins to memorise its images is overconfident, and one factor, fitted
on unseen images, corrects that. The third part is not used.

Shape legend: B images of a batch, R draws, N images of a part.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from viewgen.diagnostics.mutual_information.config import MIConfig
from viewgen.diagnostics.mutual_information.estimator import Estimator
from viewgen.diagnostics.mutual_information.networks import StatisticsNetwork, VectorStatistics
from viewgen.diagnostics.mutual_information.pairs import Pairs, check_sample
from viewgen.errors import DataError
from viewgen.randomness import addressed_generator

__all__ = ["Calibration", "Split", "Trained", "calibrate", "score", "split_images", "train"]

MAX_SCALE = 2.0
MAX_VALIDATION = 512
WEIGHT_AVERAGE = 0.98
GRADIENT_NORM = 1.0
INVERSE_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Positions of the images of each part, int64; the parts are disjoint."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_images(num_images: int, config: MIConfig, seed: int) -> Split:
    """Divide images at random; the same number, configuration and seed give the same parts.

    Raises:
        DataError: a part that needs a batch has fewer images.
    """
    num_held_out = min(round(num_images * config.held_out_share), config.max_held_out)
    num_validation = min(round(num_images * config.validation_share), MAX_VALIDATION)
    num_train = num_images - num_held_out - num_validation
    if min(num_train, num_held_out) < config.batch_size or num_validation < 8:
        raise DataError(
            f"{num_images} images divide into {num_train} for training, {num_validation} for validation and "
            f"{num_held_out} held out; training and held-out part each need a batch of {config.batch_size}, "
            "the validation part 8: take more images or a smaller batch"
        )
    order = torch.randperm(num_images, generator=addressed_generator(seed, "mi split")).numpy()
    train, validation, held_out = np.split(order, [num_train, num_train + num_validation])
    return Split(train=np.sort(train), validation=np.sort(validation), held_out=held_out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Scale and offset of the scores, applied before an estimator uses them."""

    scale: float
    offset: float
    objective: float

    def apply(self, scores: Tensor) -> Tensor:
        """Return the calibrated scores."""
        return scores * self.scale + self.offset


def calibrate(estimator: Estimator, scores: Tensor) -> Calibration:
    """Return the scale in [0, 2] and the offset of the scores that maximise an estimator's objective.

    The objectives are concave in both, so a golden-section search finds them.

    Args:
        estimator: estimator whose objective is maximised.
        scores: scores of validation images, `(R, N, N)`.
    """

    def at(scale: float) -> Calibration:
        scaled = scores * scale
        offset = estimator.offset(scaled)
        objective = float(estimator.objective(scaled + offset))
        objective = objective if math.isfinite(objective) else -math.inf
        return Calibration(scale=scale, offset=float(offset), objective=objective)

    low, high = 0.0, MAX_SCALE
    left, right = at(high - INVERSE_GOLDEN * (high - low)), at(low + INVERSE_GOLDEN * (high - low))
    for _ in range(14):
        if left.objective >= right.objective:
            high, right = right.scale, left
            left = at(high - INVERSE_GOLDEN * (high - low))
        else:
            low, left = left.scale, right
            right = at(low + INVERSE_GOLDEN * (high - low))
    return max(at(0.0), left, right, key=lambda found: found.objective)


@torch.no_grad()
def score(
    network: StatisticsNetwork, x: Tensor, y: Tensor, *, images_at_once: int = 256, device: str = "cpu"
) -> Tensor:
    """Return the scores of all pairs, `(N, N)` on the CPU, of x and y `(N, ...)`."""
    parts = [
        network.features(x_part.to(device), y_part.to(device))
        for x_part, y_part in zip(x.split(images_at_once), y.split(images_at_once), strict=True)
    ]
    x_NF, y_NF = (torch.cat(features) for features in zip(*parts, strict=True))
    return network.pair_scores(x_NF, y_NF).cpu()


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A statistics network after training.

    Attributes:
        network: the network, with the selected weights.
        step: update of the selected weights.
        calibrations: estimator → calibration on the validation images.
        objectives: step → objective of the trained estimator on the validation images.
    """

    network: StatisticsNetwork
    step: int
    calibrations: dict[str, Calibration]
    objectives: dict[int, float]


def train(
    network: StatisticsNetwork,
    pairs: Pairs,
    split: Split,
    config: MIConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_step: Callable[[int], object] = lambda _: None,
) -> Trained:
    """Train a statistics network.

    Args:
        network: statistics network on `device`.
        pairs: source of the views.
        split: parts of the images; the held-out part is not used.
        config: settings of the estimate, resolved.
        seed: seed of batches and views.
        device: ``"cpu"`` or ``"cuda"``.
        on_step: callback called after every update with its number.

    Raises:
        DataError: the views cannot be used (see `check_sample`), or the scores ceased to be finite.
    """
    assert config.learning_rate is not None, "resolved"
    estimator = config.build(config.estimator)
    num_draws = min(2, pairs.num_draws)
    watched = [pairs.draw(split.validation, seed, "mi validation", draw) for draw in range(num_draws)]
    for x, y in watched:
        check_sample(x, y, variation=False)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    average = copy.deepcopy(network).requires_grad_(False)
    checks = np.unique(np.linspace(0, config.num_steps, config.num_checks + 1).round().astype(int)[1:])
    kept, kept_step = copy.deepcopy(average), 0
    objectives: dict[int, float] = {}

    def watch() -> float:
        scores = torch.stack([score(average, x, y, device=device) for x, y in watched])
        return calibrate(estimator, scores).objective

    if isinstance(network, VectorStatistics):
        objectives[0] = watch()
    for step in range(config.num_steps):
        rows = batch_positions(split.train, config.batch_size, step, seed)
        x, y = pairs.draw(rows, seed, "mi train", step)
        scores = network(x.to(device), y.to(device))
        loss = estimator.loss(scores)
        if not bool(torch.isfinite(loss)):
            raise DataError(
                f"the scores of update {step} are not finite: x spans {float(x.min()):g} to "
                f"{float(x.max()):g}, y {float(y.min()):g} to {float(y.max()):g}; scale the data to about "
                "unit size, or lower the learning rate"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        decay = min(WEIGHT_AVERAGE, (step + 1) / (step + 11))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        if step + 1 in checks:
            objectives[step + 1] = watch()
            if objectives[step + 1] >= max(objectives.values()):
                kept, kept_step = copy.deepcopy(average), step + 1
        on_step(step + 1)
    watched_scores = torch.stack([score(kept, x, y, device=device) for x, y in watched])
    return Trained(
        network=kept,
        step=kept_step,
        calibrations={name: calibrate(config.build(name), watched_scores) for name in config.read_off},
        objectives=objectives,
    )


def batch_positions(positions: NDArray[np.int64], batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Return the distinct images of one update, `(B,)`; each pass over `positions` has a new order."""
    per_pass = len(positions) // batch_size
    generator = addressed_generator(seed, "mi order", step // per_pass)
    first = step % per_pass * batch_size
    chosen = torch.randperm(len(positions), generator=generator)[first : first + batch_size]
    batch: NDArray[np.int64] = positions[chosen.numpy()]
    return batch
